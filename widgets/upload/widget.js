// Files to the kernel, piece after piece: a few pieces are under way at a time, each answered before more follow.

const UNDER_WAY = 3;
const SILENT = 4000; // milliseconds without an answer after which the page says that the kernel is busy
let counter = 0;

function render({ model, el }) {
  el.classList.add("ftk-widget");
  const box = element("div", "ftk-upload");
  const input = element("input", "", undefined, { type: "file", multiple: "", "aria-label": "Upload files" });
  const button = element("button", "", "Upload files", { type: "button" });
  const cancel = element("button", "", "Cancel", { type: "button" });
  const hint = element("span", "ftk-muted", `or drop them here; they go into ${model.get("place")}/`);
  const bar = element("progress", "", undefined, { max: "1", value: "0", "aria-label": "Upload" });
  const says = element("div", "ftk-muted", "", { role: "status" });
  input.hidden = true;
  const waiting = new Map();
  let stopped = false;
  let busy = false;

  function working(on) {
    busy = on;
    button.disabled = on;
    bar.hidden = cancel.hidden = !on;
  }

  function ask(content, buffers) {
    const id = `upload:${++counter}`;
    return new Promise((resolve, reject) => {
      const silent = setTimeout(() => {
        says.textContent = "The kernel is busy with a cell; the upload goes on when it is free.";
      }, SILENT);
      waiting.set(id, (answer) => {
        clearTimeout(silent);
        if (answer.ok) resolve(answer);
        else reject(new Error(answer.error));
      });
      model.send({ id, ...content }, undefined, buffers);
    });
  }

  function answered(message) {
    const take = waiting.get(message?.id);
    waiting.delete(message?.id);
    take?.(message);
  }

  async function sendOne(file, name) {
    await ask({ what: "begin", name: file.name, size: file.size });
    const begun = performance.now();
    const piece = model.get("piece");
    const flying = [];
    for (let at = 0; at < file.size && !stopped; at += piece) {
      const data = await file.slice(at, at + piece).arrayBuffer();
      flying.push(
        ask({ what: "piece", at }, [data]).then((answer) => {
          const seconds = (performance.now() - begun) / 1000;
          bar.value = answer.at / file.size;
          const mb = (bytes) => (bytes / 1e6).toFixed(1);
          says.textContent = `${name}: ${mb(answer.at)} of ${mb(file.size)} MB, ${mb(answer.at / seconds)} MB/s`;
        }),
      );
      if (flying.length >= UNDER_WAY) await flying.shift();
    }
    await Promise.all(flying);
    if (!stopped) await ask({ what: "end" });
  }

  async function send(files) {
    if (busy || files.length === 0) return;
    working(true);
    stopped = false;
    says.className = "ftk-muted";
    try {
      for (const [place, file] of files.entries()) {
        bar.value = 0;
        await sendOne(file, files.length > 1 ? `${file.name} (${place + 1} of ${files.length})` : file.name);
        if (stopped) break;
      }
      if (stopped) {
        await ask({ what: "cancel" });
        says.textContent = "Cancelled; nothing was kept of the file that was under way.";
      } else {
        await ask({ what: "all" });
        says.textContent = files.length === 1 ? `${files[0].name} is there.` : `${files.length} files are there.`;
      }
    } catch (error) {
      says.className = "ftk-wrong";
      says.textContent = error.message;
    } finally {
      working(false);
      input.value = "";
    }
  }

  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => send([...input.files]));
  cancel.addEventListener("click", () => {
    stopped = true;
  });
  for (const name of ["dragenter", "dragover"]) {
    box.addEventListener(name, (event) => {
      event.preventDefault();
      event.stopPropagation();
      box.classList.add("ftk-over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    box.addEventListener(name, (event) => {
      event.preventDefault();
      event.stopPropagation();
      box.classList.remove("ftk-over");
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
    stopped = true;
    model.off("msg:custom", answered);
  };
}

export default { render };
