// A page of rows: a table in which the keyboard moves. Text from data reaches the page through textContent only,
// and an image only as a data: URL that the kernel made of a local file.

let counter = 0;

// The text with each occurrence of `find` marked, letter case aside.
function marked(text, find) {
  const node = element("span");
  const low = text.toLowerCase();
  const wanted = find.toLowerCase();
  let at = 0;
  if (wanted && low.length === text.length) {
    for (let hit = low.indexOf(wanted); hit >= 0; hit = low.indexOf(wanted, at)) {
      node.append(text.slice(at, hit), element("mark", "ftk-hit", text.slice(hit, hit + wanted.length)));
      at = hit + wanted.length;
    }
  }
  node.append(text.slice(at));
  return node;
}

function images(list) {
  const box = element("div", "ftk-images");
  for (const one of list) {
    const figure = element("figure");
    if (typeof one.src === "string" && /^data:image\/(png|jpeg|gif|webp);base64,/.test(one.src)) {
      const image = element("img");
      image.src = one.src;
      image.alt = one.name;
      figure.append(image);
    }
    figure.append(element("figcaption", "ftk-muted", one.note ? `${one.name} (${one.note})` : one.name));
    box.append(figure);
  }
  return box;
}

function line(row, find, current, id) {
  const node = element("tr", row.place === current ? "ftk-here" : "");
  node.id = id;
  node.setAttribute("aria-selected", String(row.place === current));
  node.dataset.place = String(row.place);
  const number = element("td", "ftk-n", String(row.place + 1));
  number.title = `${row.where}, counted from 0`;
  const asked = element("td");
  asked.append(marked(row.asked, find));
  if (row.more) asked.append(" ", element("span", "ftk-muted", row.more));
  if (row.images?.length) asked.append(images(row.images));
  const answer = element("td");
  if (row.rating) answer.append(element("span", `ftk-chip ftk-${row.rating === "good" ? "ok" : "bad"}`, row.rating), " ");
  answer.append(marked(row.answer, find));
  if (row.rejected) {
    const other = element("div", "ftk-muted", "rejected: ");
    other.append(marked(row.rejected, find));
    answer.append(other);
  }
  node.append(number, element("td", "ftk-n", String(row.number)), asked, answer);
  return node;
}

function render({ model, el }) {
  el.classList.add("ftk-widget", "ftk-rows");
  const name = `ftk-rows-${++counter}`;
  const table = element("table", "ftk-table");
  table.tabIndex = 0;
  table.setAttribute("role", "grid");
  const head = element("thead");
  const titles = element("tr");
  for (const [text, className] of [["Row", "ftk-n"], ["Source", "ftk-n"], ["Asked", ""], ["Answer", ""]]) {
    titles.append(element("th", className, text));
  }
  titles.children[1].title = "The row's number in its source, counted from 0, as findings and refusals name it";
  head.append(titles);
  const body = element("tbody");
  table.append(head, body);
  el.replaceChildren(table);
  let asked = 0;

  function draw() {
    const current = model.get("current");
    const rows = model.get("rows");
    const lines = rows.map((row) => line(row, model.get("find"), current, `${name}-${row.place}`));
    body.replaceChildren(...lines);
    const total = model.get("total");
    table.setAttribute("aria-rowcount", String(total));
    table.setAttribute("aria-label", `${total} rows. Arrow keys move, Page Up and Page Down turn the page.`);
    table.setAttribute("aria-activedescendant", rows.length ? `${name}-${current}` : "");
  }

  function go(step) {
    model.send({ id: `${name}:${++asked}`, step });
  }

  table.addEventListener("keydown", (event) => {
    const page = model.get("page");
    const total = model.get("total");
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -total, End: total };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    go(step);
  });
  body.addEventListener("click", (event) => {
    const place = event.target.closest("tr")?.dataset.place;
    if (place !== undefined) model.send({ id: `${name}:${++asked}`, place: Number(place) });
  });
  model.on("change:rows", draw);
  model.on("change:current", draw);
  model.on("change:find", draw); // the same rows may hold what is searched for
  draw();
  return () => {
    model.off("change:rows", draw);
    model.off("change:current", draw);
    model.off("change:find", draw);
  };
}

export default { render };
