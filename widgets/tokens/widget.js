// Token view: one cell a token. Text from data reaches the page through textContent only.

const VISIBLE = { "\n": "⏎\n", "\t": "⇥", "\r": "␍" };

function visible(text) {
  return text === "" ? "∅" : text.replace(/[\n\t\r]/g, (character) => VISIBLE[character]);
}

function describe(token, index, count) {
  const kinds = [token.trained ? "trained" : "not trained"];
  if (token.special) kinds.push("special");
  return `Token ${index + 1} of ${count} · id ${token.id} · ${JSON.stringify(token.text)} · ${kinds.join(", ")}`;
}

let counter = 0;

function legend() {
  const node = element("div", "ftk-token-legend");
  for (const [name, text] of [["ftk-trained", "trained"], ["", "read only"], ["ftk-special", "special"]]) {
    const item = element("span", "ftk-token-key");
    item.append(element("span", `ftk-token ${name}`, "ab"), document.createTextNode(text));
    node.append(item);
  }
  return node;
}

function render({ model, el }) {
  el.classList.add("ftk-widget", "ftk-tokens");
  const head = element("div", "ftk-token-head");
  const summary = element("span", "ftk-token-summary");
  const button = element("button", "ftk-token-copy", "Copy text");
  button.type = "button";
  button.title = "Copy the row as the model reads it";
  button.addEventListener("click", async () => {
    const tokens = model.get("tokens");
    try {
      await copy(model.get("text") || tokens.map((token) => token.text).join(""));
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copying is not allowed here";
    }
    setTimeout(() => { button.textContent = "Copy text"; }, 1500);
  });
  head.append(summary, legend(), button);
  const list = element("div", "ftk-token-list");
  list.tabIndex = 0;
  list.setAttribute("role", "group");
  const detail = element("div", "ftk-token-detail");
  detail.setAttribute("role", "status");
  el.replaceChildren(head, list, detail);
  let current = -1;

  function choose(index) {
    const tokens = model.get("tokens");
    list.children[current]?.classList.remove("ftk-current");
    current = index;
    const cell = list.children[index];
    cell?.classList.add("ftk-current");
    cell?.scrollIntoView({ block: "nearest" });
    detail.textContent = tokens[index]
      ? describe(tokens[index], index, tokens.length)
      : "Point at a token, or move with the arrow keys, to see its id.";
  }

  function draw() {
    const tokens = model.get("tokens");
    const whole = model.get("count") > tokens.length;
    const count = whole ? model.get("count") : tokens.length;
    const trained = whole ? model.get("trained") : tokens.filter((token) => token.trained).length;
    const name = model.get("label");
    const says = `${name}: ${count} tokens, ${trained} trained`;
    summary.textContent = whole ? `${says}; the first ${tokens.length} are shown` : says;
    const keys = model.get("pages") ? "Arrow keys move, Page Up and Page Down change the row." : "Arrow keys move.";
    list.setAttribute("aria-label", `${says}. ${keys}`);
    list.replaceChildren(
      ...tokens.map((token, index) => {
        const cell = element(token.trained ? "mark" : "span", "ftk-token", visible(token.text));
        cell.classList.toggle("ftk-trained", Boolean(token.trained));
        cell.classList.toggle("ftk-special", Boolean(token.special));
        cell.title = describe(token, index, tokens.length);
        cell.dataset.index = String(index);
        return cell;
      }),
    );
    choose(-1);
  }

  list.addEventListener("keydown", (event) => {
    const step = { PageDown: 1, PageUp: -1 }[event.key];
    if (step !== undefined && model.get("pages")) {
      event.preventDefault();
      event.stopPropagation();
      model.send({ id: `tokens:${++counter}`, step });
      return;
    }
    const count = list.children.length;
    const next = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: count - 1 }[event.key];
    if (next === undefined || count === 0) return;
    event.preventDefault();
    event.stopPropagation();
    choose(Math.min(Math.max(next, 0), count - 1));
  });
  for (const name of ["click", "mouseover"]) {
    list.addEventListener(name, (event) => {
      const index = event.target.dataset?.index;
      if (index !== undefined && Number(index) !== current) choose(Number(index));
    });
  }
  model.on("change:tokens", draw);
  model.on("change:label", draw);
  draw();
  return () => {
    model.off("change:tokens", draw);
    model.off("change:label", draw);
  };
}

export default { render };
