// Tells the kernel that a page shows the panel that this lies in: see ftkit.ui.reopened.

function render({ model, el }) {
  el.style.display = "none";
  model.send({ shown: true });
}

export default { render };
