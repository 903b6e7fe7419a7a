// Cards of which one is chosen: radio buttons, so that keys and screen readers know what they are.

function render({ model, el }) {
  el.classList.add("ftk-widget", "ftk-cards");
  el.setAttribute("role", "radiogroup");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // arrows choose here, in JupyterLab as elsewhere
  const name = unique("ftk-cards");
  const radios = new Map();

  function paper([who, address]) {
    const link = element("a", "", who, { href: address, target: "_blank", rel: "noopener noreferrer" });
    link.title = address;
    return link;
  }

  function card(one, place) {
    const id = `${name}-${place}`;
    const box = element("div", "ftk-pick");
    const radio = element("input", "", undefined, { type: "radio", name, id });
    const title = element("label", "ftk-pick-title", one.title, { for: id });
    const sentence = element("div", "ftk-pick-text", one.sentence, { id: `${id}-text` });
    radio.setAttribute("aria-describedby", `${id}-text`);
    radio.disabled = Boolean(one.reason);
    radio.addEventListener("change", () => {
      if (!radio.checked) return;
      model.set("value", one.type);
      model.save_changes();
    });
    const head = element("div", "ftk-pick-head");
    head.append(radio, title);
    box.append(head, sentence);
    if (one.reason) {
      box.classList.add("ftk-pick-off");
      box.append(element("div", "ftk-pick-why", one.reason, { id: `${id}-why` }));
      radio.setAttribute("aria-describedby", `${id}-text ${id}-why`);
    } else {
      box.addEventListener("click", (event) => {
        if (!event.target.closest("a, input, label")) radio.click();
      });
    }
    if (one.papers.length) {
      const papers = element("div", "ftk-pick-papers");
      papers.append(...one.papers.map(paper));
      box.append(papers);
    }
    radios.set(one.type, radio);
    return box;
  }

  function mark() {
    for (const [type, radio] of radios) {
      radio.checked = type === model.get("value");
      radio.closest(".ftk-pick").classList.toggle("ftk-chosen", radio.checked);
    }
  }

  function draw() {
    const focused = [...radios].find(([, radio]) => radio === document.activeElement)?.[0];
    radios.clear();
    el.setAttribute("aria-label", model.get("label"));
    let group = null;
    const parts = [];
    model.get("cards").forEach((one, place) => {
      if (one.group && one.group !== group) parts.push(element("div", "ftk-pick-group", one.group));
      group = one.group;
      parts.push(card(one, place));
    });
    el.replaceChildren(...parts);
    mark();
    radios.get(focused)?.focus();
  }

  const keep = (event) => {
    if (event.key.startsWith("Arrow") || event.key === " ") event.stopPropagation();
  };
  el.addEventListener("keydown", keep);
  for (const trait of ["cards", "label"]) model.on(`change:${trait}`, draw);
  model.on("change:value", mark);
  draw();
  return () => {
    el.removeEventListener("keydown", keep);
    for (const trait of ["cards", "label"]) model.off(`change:${trait}`, draw);
    model.off("change:value", mark);
  };
}

export default { render };
