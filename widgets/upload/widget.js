// Files to the kernel, piece after piece: a few pieces are under way at a time, each answered before more follow.

const UNDER_WAY = 3;
// Milliseconds without an answer, and what the page then says
const SILENCES = [
  [4000, "The kernel is busy with a cell; the upload goes on when it is free."],
  [60000, "No answer for a minute: a long cell is running, or the connection is lost. Wait, or cancel and try again."],
];

const mb = (bytes) => (bytes / 1e6).toFixed(1);

function render({ model, el }) {
  el.classList.add("ftk-widget");
  const box = element("div", "ftk-upload");
  const input = element("input", "", undefined, { type: "file", multiple: "", "aria-label": "Upload files" });
  const button = element("button", "", "Upload files", { type: "button" });
  const cancel = element("button", "", "Cancel upload", { type: "button" });
  const hint = element("span", "ftk-muted", `or drop them here; they go into ${model.get("place")}`);
  const bar = element("progress", "", undefined, { max: "1", value: "0", "aria-label": "Upload" });
  const says = element("div", "ftk-muted", "", { role: "status" });
  const view = Math.random().toString(36).slice(2); // the same upload may be shown twice
  const waiting = new Map();
  let counter = 0;
  let stopped = false;
  let busy = false;
  input.hidden = true;

  function working(on) {
    busy = on;
    button.disabled = on;
    bar.hidden = cancel.hidden = !on;
  }

  function say(text, wrong = false) {
    says.className = wrong ? "ftk-wrong" : "ftk-muted";
    says.textContent = text;
  }

  function ask(content, buffers) {
    const id = `upload:${view}:${++counter}`;
    const answer = new Promise((resolve, reject) => {
      const timers = SILENCES.map(([after, text]) => setTimeout(() => say(text), after));
      waiting.set(id, (message) => {
        waiting.delete(id);
        timers.forEach(clearTimeout);
        if (message.ok) resolve(message);
        else reject(new Error(message.error));
      });
      try {
        model.send({ id, ...content }, undefined, buffers);
      } catch {
        answered({ id, ok: false, error: "The kernel cannot be reached. Run the cell again." });
      }
    });
    answer.catch(() => {}); // whoever awaits it is told, too
    return answer;
  }

  function answered(message) {
    waiting.get(message?.id)?.(message);
  }

  function stop() {
    if (!busy) return;
    stopped = true;
    for (const end of [...waiting.values()]) end({ ok: false, error: "Cancelled." });
    try {
      model.send({ id: "", what: "cancel" }); // nobody waits for the answer
    } catch {
      // the kernel is gone, and with it what it had
    }
  }

  async function contents(file, at, piece) {
    try {
      return await file.slice(at, at + piece).arrayBuffer();
    } catch {
      throw new Error(`${file.name} cannot be read; it has been moved or changed. Choose it again.`);
    }
  }

  async function sendOne(file, name) {
    await ask({ what: "begin", name: file.name, size: file.size });
    const begun = performance.now();
    const piece = model.get("piece");
    const flying = [];
    for (let at = 0; at < file.size; at += piece) {
      const data = await contents(file, at, piece);
      if (stopped) throw new Error("Cancelled.");
      flying.push(
        ask({ what: "piece", at }, [data]).then((answer) => {
          const seconds = (performance.now() - begun) / 1000;
          bar.value = answer.at / file.size;
          say(`${name}: ${mb(answer.at)} of ${mb(file.size)} MB, ${mb(answer.at / seconds)} MB/s`);
        }),
      );
      flying.at(-1).catch(() => {});
      if (flying.length >= UNDER_WAY) await flying.shift();
    }
    await Promise.all(flying);
    await ask({ what: "end" });
  }

  async function send(files) {
    if (busy || files.length === 0) return;
    working(true);
    stopped = false;
    const there = [];
    const wrong = [];
    for (const [place, file] of files.entries()) {
      bar.value = 0;
      try {
        await sendOne(file, files.length > 1 ? `${file.name} (${place + 1} of ${files.length})` : file.name);
        there.push(file.name);
      } catch (error) {
        if (stopped) break;
        wrong.push(error.message);
      }
    }
    try {
      const kept = there.length === 1 ? `${there[0]} is there.` : `${there.length} files are there.`;
      if (stopped) {
        say(`Cancelled; nothing is kept of the file that was under way.${there.length ? ` ${kept}` : ""}`);
      } else {
        if (there.length) await ask({ what: "all" });
        say([...(there.length ? [kept] : []), ...wrong].join(" "), wrong.length > 0);
      }
    } catch (error) {
      say(error.message, true);
    } finally {
      working(false);
      input.value = "";
    }
  }

  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => send([...input.files]));
  cancel.addEventListener("click", stop);
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    box.addEventListener(name, (event) => {
      event.preventDefault();
      event.stopPropagation();
      box.classList.toggle("ftk-over", name === "dragenter" || name === "dragover");
      if (name === "drop") send([...event.dataTransfer.files]);
    });
  }
  model.on("msg:custom", answered);
  working(false);
  const line = element("div", "ftk-upload-line");
  line.append(button, cancel, hint, input);
  box.append(line, bar, says);
  el.append(box);
  return () => {
    stop();
    model.off("msg:custom", answered);
  };
}

export default { render };
