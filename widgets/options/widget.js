// A list to choose from in which what cannot be had is greyed out, with the reason behind its name.

function render({ model, el }) {
  el.classList.add("ftk-widget", "ftk-options");
  const id = unique("ftk-options");
  const label = element("label", "widget-label", "", { for: id });
  const select = element("select", "", undefined, { id });
  const box = element("div", "jupyter-widgets widget-inline-hbox widget-dropdown");
  box.append(label, select);
  el.replaceChildren(box);

  function draw() {
    const reasons = model.get("blocked");
    label.textContent = model.get("description");
    box.title = model.get("tooltip") || "";
    select.replaceChildren(
      ...model.get("options").map(([text, value]) => {
        const reason = reasons[value];
        const option = element("option", "", reason ? `${text} – ${reason}` : text);
        option.disabled = Boolean(reason);
        return option;
      }),
    );
    mark();
  }

  function mark() {
    select.selectedIndex = model.get("options").findIndex(([, value]) => value === model.get("value"));
  }

  select.addEventListener("change", () => {
    model.set("value", model.get("options")[select.selectedIndex][1]);
    model.save_changes();
  });
  const traits = ["description", "options", "blocked", "tooltip"];
  for (const trait of traits) model.on(`change:${trait}`, draw);
  model.on("change:value", mark);
  draw();
  return () => {
    for (const trait of traits) model.off(`change:${trait}`, draw);
    model.off("change:value", mark);
  };
}

export default { render };
