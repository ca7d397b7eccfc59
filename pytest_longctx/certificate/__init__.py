"""What an endpoint really serves: about forty checks of any URL, within a budget, without pytest."""
