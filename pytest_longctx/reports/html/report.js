"use strict";
// The rows of the verdicts are the text of the element "noscript": without scripts a browser shows them all, with scripts this
// file pages, filters and sorts them. Their text is escaped, and no other markup is made here.
const COLUMNS = ["verdict", "finding", "what", "deployment", "TTFT", "prompt tokens"];
const RANK = ["broken", "unmeasured", "known", "holds", "out of scope"];
const byId = (id) => document.getElementById(id);
const plain = (html) => {
  const part = document.createElement("textarea");
  part.innerHTML = html.replace(/<[^>]*>/g, " ");
  return part.value.replace(/\s+/g, " ").trim();
};

const table = byId("table");
const lines = (table ? table.textContent : "").split("\n").filter((line) => line.startsWith("<tr"));
let rows = null; // made when they are first searched: ten thousand take a moment
let shown = lines.map((_, i) => i);
let page = 0, sorted = -1, descending = false;
let waiting = 0; // the search that follows the last key

function parsed() {
  rows ??= lines.map((line) => {
    const cells = line.split(/<td[^>]*>/).slice(1).map(plain);
    const time = /<td data-k="([^"]*)"/.exec(line);
    return {
      id: /id="([^"]*)"/.exec(line)[1],
      marks: (/^<tr[^>]* data-m="([^"]*)"/.exec(line)?.[1] ?? "").split(" "),
      word: cells[0].replace(/^\S+ /, ""), deployment: cells[3],
      keys: [RANK.indexOf(cells[0].replace(/^\S+ /, "")), cells[1], cells[2], cells[3],
        time ? Number(time[1]) : -1, cells[5] ? Number(cells[5].replace(/,/g, "")) : -1],
      text: plain(line).toLowerCase(),
    };
  });
  return rows;
}

function draw() {
  const size = Number(byId("size").value), last = Math.max(0, Math.ceil(shown.length / size) - 1);
  page = Math.min(Math.max(page, 0), last);
  const some = shown.slice(page * size, (page + 1) * size);
  byId("body").innerHTML = some.map((i) => lines[i]).join("\n");
  const from = some.length ? page * size + 1 : 0;
  byId("shown").textContent = `${from} to ${page * size + some.length} of ${shown.length} verdicts` +
    (shown.length < lines.length ? ` (${lines.length} in all)` : "");
  byId("back").disabled = page === 0;
  byId("next").disabled = page === last;
}

function narrow() {
  clearTimeout(waiting);
  const wanted = byId("find").value.toLowerCase().trim(), word = byId("word").value;
  const deployment = byId("deployment").value, marker = byId("marker").value;
  shown = lines.map((_, i) => i);
  if (wanted || word || deployment || marker) {
    const all = parsed();
    shown = shown.filter((i) => (!word || all[i].word === word) && (!deployment || all[i].deployment === deployment) &&
      (!marker || all[i].marks.includes(marker)) && (!wanted || all[i].text.includes(wanted)));
  }
  if (sorted >= 0) {
    const keys = parsed().map((row) => row.keys[sorted]);
    shown.sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b) * (descending ? -1 : 1));
  }
  page = 0;
  draw();
}

function sortBy(i, head) {
  descending = sorted === i && !descending;
  sorted = i;
  for (const other of table.parentNode.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  narrow();
}

function build() {
  const made = document.createElement("table"), head = made.createTHead().insertRow();
  made.className = "verdicts";
  COLUMNS.forEach((name, i) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    cell.scope = "col";
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => sortBy(i, cell));
    cell.append(button);
    head.append(cell);
  });
  made.createTBody().id = "body";
  byId("place").append(made);
  for (const one of document.querySelectorAll(".find, .pages")) one.hidden = false;
  for (const name of ["word", "deployment", "marker", "size"]) byId(name).addEventListener("change", narrow);
  byId("find").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(narrow, lines.length > 2000 ? 150 : 0);
  });
  byId("back").addEventListener("click", () => { page -= 1; draw(); });
  byId("next").addEventListener("click", () => { page += 1; draw(); });
  draw();
}

// A link such as #LC-0030 or #cause-... shows its target wherever it is: on another page of the table, or in a folded part.
function follow() {
  const id = decodeURIComponent(location.hash.slice(1));
  if (!id || !/^[\w.-]+$/.test(id)) return;
  if (table) narrow(); // a search may be pending
  if (!byId(id) && table) {
    const i = lines.findIndex((line) => line.includes(`id="${id}"`));
    if (i < 0) return;
    for (const name of ["find", "word", "deployment", "marker"]) byId(name).value = "";
    narrow();
    page = Math.floor(shown.indexOf(i) / Number(byId("size").value));
    draw();
  }
  const target = byId(id);
  if (!target) return;
  for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  for (const one of target.tagName === "TR" ? target.querySelectorAll("details") : []) one.open = true;
  for (const one of document.querySelectorAll(".here")) one.classList.remove("here");
  target.classList.add("here");
  target.scrollIntoView({ block: "start" });
}

function copyButtons() {
  for (const one of document.querySelectorAll(".again")) {
    const button = document.createElement("button"), text = one.querySelector("pre").textContent;
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the command");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(one.querySelector("pre"));
        button.textContent = "Selected";
      }
      byId("said").textContent = button.textContent;
    });
    one.append(button);
  }
}

if (table) build();
copyButtons();
for (const one of document.querySelectorAll("[data-word]")) {
  one.addEventListener("click", () => {
    byId("word").value = one.dataset.word;
    narrow();
  });
}
addEventListener("hashchange", follow);
follow();
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("main details")) one.open = true;
  if (table) byId("body").innerHTML = shown.slice(0, 1000).map((i) => lines[i]).join("\n");
});
addEventListener("afterprint", () => table && draw());
