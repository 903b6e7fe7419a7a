// Code with a button that copies it, also where the page has no clipboard permission.

async function copy(text, pre) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(pre);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
}

function render({ model, el }) {
  el.classList.add("ftk-widget", "ftk-code");
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  pre.setAttribute("aria-label", "Code of this recipe");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.title = "Copy the code";
  const said = document.createElement("span");
  said.className = "ftk-code-said";
  said.setAttribute("role", "status");
  const bar = document.createElement("div");
  bar.className = "ftk-code-bar";
  bar.append(button, said);
  el.replaceChildren(pre, bar);

  const draw = () => {
    pre.textContent = model.get("text");
    said.textContent = "";
  };
  button.addEventListener("click", async () => {
    said.textContent = (await copy(model.get("text"), pre)) ? "Copied." : "Selected: press Ctrl+C.";
  });
  model.on("change:text", draw);
  draw();
  return () => model.off("change:text", draw);
}

export default { render };
