// What every widget's page needs: ftkit.ui.front puts this before the widget's own file, which cannot import.

function element(tag, className = "", text = undefined, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// An id of the page; a counter would not do, for each widget has a module of its own.
function unique(prefix) {
  return `${prefix}-${Math.random().toString(36).slice(2)}`;
}

async function copy(text) {
  if (navigator.clipboard?.writeText) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = element("textarea"); // no clipboard on plain http
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
