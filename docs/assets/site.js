// Name each navigation landmark once: the theme repeats names, and names none of the copy buttons' landmarks.
// Let the keyboard scroll a wide table.
const nameLandmarks = () => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap")) wide.tabIndex = 0;
  const seen = new Map();
  for (const nav of document.querySelectorAll("nav")) {
    const by = nav.getAttribute("aria-labelledby");
    const text = by ? document.getElementById(by)?.textContent.trim() : nav.getAttribute("aria-label")?.replace(/, \d+$/, "");
    const name = text || "Code";
    const times = (seen.get(name) || 0) + 1;
    seen.set(name, times);
    const wanted = times === 1 ? name : `${name}, ${times}`;
    if (times > 1 || !text) {
      nav.removeAttribute("aria-labelledby");
      if (nav.getAttribute("aria-label") !== wanted) nav.setAttribute("aria-label", wanted);
    }
  }
};
new MutationObserver(nameLandmarks).observe(document.body, { childList: true, subtree: true });
nameLandmarks();
