// Lets the keys of the box around it reach the page's own controls: in JupyterLab the arrows would otherwise move
// on to the next cell, and Enter would edit this one, while a list or a button has the focus. Two parts of it
// listen: its shortcuts, which rest inside an element that says so, and the notebook's own handler further out.

const BOX = ".ftk-own-keys";
const FRAMES = 120;

function keep(event) {
  if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
}

function render({ el }) {
  el.style.display = "none";
  let box = null;
  let frames = 0;
  const mark = () => {
    box = el.closest(BOX);
    if (box) {
      box.setAttribute("data-lm-suppress-shortcuts", "true");
      box.addEventListener("keydown", keep);
    } else if (frames++ < FRAMES) requestAnimationFrame(mark); // not in the page yet
  };
  mark();
  return () => box?.removeEventListener("keydown", keep);
}

export default { render };
