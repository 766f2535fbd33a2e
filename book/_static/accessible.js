// What the theme leaves to be said to a keyboard and a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  // A button is called what it shows.
  document.querySelectorAll("summary[aria-label], .search-button-field").forEach((button) => {
    button.removeAttribute("aria-label");
  });
  // The list of references holds links beside its entries.
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  // Paper has nothing to unfold.
  addEventListener("beforeprint", () => {
    document.querySelectorAll(".bd-article details:not(.hide)").forEach((fold) => (fold.open = true));
  });
  // What scrolls can be reached.
  document.querySelectorAll(".bd-article table, .bd-article pre, .bd-article .output").forEach((box) => {
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible") {
      box.tabIndex = 0;
    }
  });
});
