// Chat: transcript, message box, settings. Whatever a model or a person wrote reaches the page through
// textContent only. Every message to the kernel carries an id and is answered; `ask` waits for that answer.

const NAMES = { base: "Base", adapter: "Tuned", both: "Side by side" };
const FINISH = { length: "cut off at max tokens", stopped: "stopped" };
const FIELDS = [
  ["temperature", "Temperature", "0 always takes the most likely token; higher is more varied"],
  ["top_p", "Top-p", "Choose among the most likely tokens that together have this probability"],
  ["max_new_tokens", "Max tokens", "Longest reply, in tokens"],
  ["seed", "Seed", "The same seed gives the same reply; empty: a new one each time"],
];
const PATIENCE = 1500; // ms without an answer before the kernel is called busy

let counter = 0;

function button(text, label, className, onClick) {
  const node = element("button", className, text, { type: "button", "aria-label": label, title: label });
  node.addEventListener("click", onClick);
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// As setText, for a text that grows: what is there already need not be laid out again.
function growText(node, text) {
  const shown = node.textContent;
  if (shown !== "" && text.startsWith(shown)) node.append(text.slice(shown.length));
  else setText(node, text);
}

// Requests to the kernel: resolves with nothing, rejects with {message, advice}.
function requests(model, onSlow) {
  const pending = new Map();
  const slow = () => onSlow([...pending.values()].some((request) => request.slow));
  const onMessage = (answer) => {
    const request = pending.get(answer?.id);
    if (!request) return;
    pending.delete(answer.id);
    clearTimeout(request.timer);
    slow();
    if (answer.ok) request.resolve();
    else request.reject(answer.error);
  };
  model.on("msg:custom", onMessage);
  return {
    ask(action, content = {}) {
      const id = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
      return new Promise((resolve, reject) => {
        const request = { resolve, reject, slow: false };
        request.timer = setTimeout(() => {
          request.slow = true;
          slow();
        }, PATIENCE);
        pending.set(id, request);
        model.send({ id, action, ...content });
      });
    },
    end() {
      model.off("msg:custom", onMessage);
      for (const request of pending.values()) clearTimeout(request.timer);
    },
  };
}

// One reply: who, text, figures, what can be done with it.
function replyView(which, actions) {
  const node = element("div", "ftk-chat-reply", undefined, { role: "group", "aria-label": `Reply, ${NAMES[which]}` });
  const head = element("div", "ftk-chat-who", NAMES[which]);
  const bubble = element("div", "ftk-chat-bubble");
  const foot = element("div", "ftk-chat-foot");
  const figures = element("span", "ftk-chat-figures");
  const copyButton = button("Copy", `Copy the reply, ${NAMES[which]}`, "ftk-chat-small", async () => {
    await copy(bubble.textContent);
    copyButton.textContent = "Copied";
    setTimeout(() => (copyButton.textContent = "Copy"), 1200);
  });
  const again = button("Regenerate", "Take this reply back and ask again", "ftk-chat-small", actions.regenerate);
  foot.append(figures, copyButton, again);
  node.append(head, bubble, foot);

  return {
    node,
    update(reply, { live, last }) {
      growText(bubble, reply.text);
      const trimmed = reply.text.trimStart();
      bubble.classList.toggle("ftk-chat-code", trimmed.startsWith("{") || trimmed.startsWith("["));
      node.classList.toggle("ftk-chat-live", live);
      bubble.classList.toggle("ftk-chat-nothing", !live && reply.text === "");
      foot.hidden = live;
      if (live) return;
      const parts = [`${reply.tokens} token${reply.tokens === 1 ? "" : "s"}`];
      if (reply.tokens_per_second) parts.push(`${reply.tokens_per_second.toFixed(1)} tokens/s`);
      if (reply.checkpoint != null) parts.push(`checkpoint of step ${reply.checkpoint.toLocaleString("en")}`);
      if (FINISH[reply.finish]) parts.push(FINISH[reply.finish]);
      setText(figures, parts.join(" · "));
      copyButton.hidden = reply.text === "";
      again.hidden = !last;
    },
  };
}

function errorView(error) {
  const node = element("div", "ftk-error", undefined, { role: "alert" });
  node.append(element("div", "ftk-message", error.message));
  if (error.advice) node.append(element("div", "ftk-advice", error.advice));
  return node;
}

// One turn: what the person said, and one reply or two; or a line between conversations.
function turnView(turn, actions) {
  if (turn.note) return { node: element("div", "ftk-chat-divider", turn.note), update() {} };
  const node = element("div", "ftk-chat-turn");
  const user = element("div", "ftk-chat-user", turn.user, { role: "group", "aria-label": "You" });
  const replies = element("div", "ftk-chat-replies");
  node.append(user, replies);
  const views = new Map();
  let shownError = null;
  const retry = button("Try again", "Ask this again", "ftk-chat-small", actions.regenerate);
  return {
    node,
    update(next, state) {
      const names = Object.keys(next.replies);
      replies.classList.toggle("ftk-chat-two", names.length === 2);
      for (const [which, view] of views) {
        if (names.includes(which)) continue;
        view.node.remove();
        views.delete(which);
      }
      for (const which of names) {
        if (!views.has(which)) {
          views.set(which, replyView(which, actions));
          replies.append(views.get(which).node);
        }
        views.get(which).update(next.replies[which], { ...state, live: state.live && !next.replies[which].finish });
      }
      if (Boolean(next.error) !== Boolean(shownError)) {
        shownError?.remove();
        shownError = next.error ? errorView(next.error) : null;
        if (shownError) {
          shownError.append(retry);
          node.append(shownError);
        }
      }
      retry.hidden = !state.last;
    },
  };
}

function transcript(model, actions) {
  const node = element("div", "ftk-chat-log", undefined, {
    role: "log",
    "aria-live": "polite",
    "aria-label": "Conversation",
    tabindex: "0",
  });
  const views = new Map();
  let follow = true;
  node.addEventListener("scroll", () => {
    follow = node.scrollHeight - node.scrollTop - node.clientHeight < 32;
  });

  function draw() {
    const finished = model.get("turns");
    const live = model.get("live");
    const isLive = live.id !== undefined && !finished.some((turn) => turn.id === live.id);
    const turns = isLive ? [...finished, live] : finished;
    const ids = new Set(turns.map((turn) => turn.id));
    for (const [id, view] of views) {
      if (ids.has(id)) continue;
      view.node.remove();
      views.delete(id);
    }
    turns.forEach((turn, index) => {
      if (!views.has(turn.id)) {
        views.set(turn.id, turnView(turn, actions));
        node.append(views.get(turn.id).node);
      }
      const last = index === turns.length - 1 && !model.get("replying");
      views.get(turn.id).update(turn, { live: isLive && turn === live, last });
    });
    node.setAttribute("aria-busy", String(isLive));
    node.hidden = turns.length === 0;
    if (follow) node.scrollTop = node.scrollHeight;
  }

  const size = new ResizeObserver(() => {
    if (follow) node.scrollTop = node.scrollHeight;
  });
  size.observe(node);

  return {
    node,
    draw,
    toEnd() {
      follow = true;
      node.scrollTop = node.scrollHeight;
    },
    end: () => size.disconnect(),
  };
}

// What stands in place of the transcript before the first message.
function emptyView(model, actions) {
  const node = element("div", "ftk-chat-empty");

  function draw() {
    const subject = model.get("subject");
    const nothing = model.get("turns").length === 0 && model.get("live").id === undefined;
    node.hidden = !nothing;
    if (!nothing) return;
    const parts = [];
    if (subject) {
      parts.push(element("div", "ftk-chat-empty-title", "Say something to the model"));
      const hint = model.get("modes").both
        ? "Enter sends."
        : "Enter sends. Side by side shows what training changed: the same question to the model before and after.";
      parts.push(element("div", "ftk-muted", hint));
    } else {
      parts.push(element("div", "ftk-chat-empty-title", "No model to talk to yet"));
      parts.push(element("div", "ftk-muted", "Start a run, or open a finished one."));
    }
    const choices = subject
      ? model.get("suggestions").map((text) => [text, "", () => actions.send(text)])
      : model.get("runs").map((run) => [run.name, run.detail, () => actions.open(run.path)]);
    if (choices.length) {
      const list = element("div", "ftk-chat-choices", undefined, {
        role: "group",
        "aria-label": subject ? "Examples to try" : "Runs to open",
      });
      for (const [text, detail, onClick] of choices) {
        const choice = element("button", "ftk-chat-choice", undefined, { type: "button" });
        choice.append(element("span", "", text));
        if (detail) choice.append(element("span", "ftk-muted", detail));
        choice.addEventListener("click", onClick);
        list.append(choice);
      }
      parts.push(element("div", "ftk-chat-choices-title", subject ? "From the held-out rows" : "Runs"), list);
    }
    node.replaceChildren(...parts);
  }

  return { node, draw };
}

function modeSwitch(model, choose) {
  const node = element("div", "ftk-chat-modes", undefined, { role: "radiogroup", "aria-label": "Who answers" });
  const group = `ftk-chat-mode-${(counter += 1)}`;
  const inputs = {};
  for (const [mode, name] of Object.entries(NAMES)) {
    const label = element("label", "ftk-chat-mode");
    const input = element("input", "", undefined, { type: "radio", name: group, value: mode });
    input.addEventListener("change", () => choose(mode));
    label.append(input, element("span", "", name));
    node.append(label);
    inputs[mode] = { input, label };
  }
  return {
    node,
    draw() {
      const reasons = model.get("modes");
      for (const [mode, { input, label }] of Object.entries(inputs)) {
        input.checked = model.get("mode") === mode;
        input.disabled = Boolean(reasons[mode]);
        label.title = reasons[mode] || "";
        label.classList.toggle("ftk-chat-off", Boolean(reasons[mode]));
      }
    },
  };
}

function settingsView(model, change) {
  const id = `ftk-chat-settings-${(counter += 1)}`;
  const node = element("div", "ftk-chat-settings", undefined, { id, role: "group", "aria-label": "Chat settings" });
  const wrong = element("div", "ftk-wrong", "", { role: "alert" });
  const inputs = {};

  function add(name, title, help, input) {
    const field = element("div", `ftk-chat-field ftk-chat-${name}`);
    input.id = `${id}-${name}`;
    input.title = help;
    field.append(element("label", "", title, { for: input.id }), input);
    node.append(field);
    inputs[name] = input;
    input.addEventListener("change", async () => {
      try {
        await change({ [name]: input.value });
        wrong.textContent = "";
        input.removeAttribute("aria-invalid");
      } catch (error) {
        wrong.textContent = [error.message, error.advice].filter(Boolean).join(" ");
        input.setAttribute("aria-invalid", "true");
      }
    });
  }

  add(
    "system_prompt",
    "System prompt",
    "First message of every conversation. Another one starts a new conversation.",
    element("textarea", "", undefined, { rows: "2", placeholder: "None" }),
  );
  for (const [name, title, help] of FIELDS) {
    const placeholder = name === "seed" ? "random" : "";
    add(name, title, help, element("input", "", undefined, { type: "text", inputmode: "decimal", placeholder }));
  }
  node.append(wrong);
  node.hidden = true;
  return {
    node,
    id,
    draw() {
      const settings = model.get("settings");
      for (const [name, input] of Object.entries(inputs)) {
        if (input.getRootNode().activeElement === input || input.hasAttribute("aria-invalid")) continue;
        input.value = settings[name] ?? "";
      }
    },
  };
}

function composer(actions) {
  const node = element("form", "ftk-chat-compose");
  const id = `ftk-chat-text-${(counter += 1)}`;
  const label = element("label", "ftk-chat-hidden", "Message", { for: id });
  const area = element("textarea", "", undefined, { id, rows: "1" });
  const send = element("button", "ftk-primary", "Send", { type: "submit", title: "Send (Enter)" });
  const stop = button("Stop", "Stop the reply", "ftk-chat-stop", actions.stop);
  stop.removeAttribute("aria-label");
  node.append(label, area, send, stop);

  let ready = false;
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, 160)}px`;
    send.disabled = !ready || area.value.trim() === "";
  };
  area.addEventListener("input", fit);
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    if (event.shiftKey) {
      // By hand: JupyterLab keeps the browser from breaking lines inside a cell.
      area.setRangeText("\n", area.selectionStart, area.selectionEnd, "end");
      fit();
    } else {
      node.requestSubmit();
    }
  });
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = area.value;
    if (!ready || text.trim() === "") return;
    area.value = "";
    fit();
    actions.send(text, () => {
      if (area.value === "") area.value = text; // nothing that was typed is lost
      fit();
    });
  });
  return {
    node,
    draw(subject, replying) {
      ready = Boolean(subject) && !replying;
      area.disabled = !subject;
      area.placeholder = subject
        ? "Message (Enter sends, Shift+Enter starts a new line)"
        : "Start or open a run first";
      send.hidden = replying;
      stop.hidden = !replying;
      fit();
    },
  };
}

function render({ model, el }) {
  el.classList.add("ftk-widget", "ftk-chat");
  el.dataset.lmSuppressShortcuts = "true"; // Shift+Enter is a new line here, not JupyterLab's "run the cell"

  const notice = element("div", "ftk-chat-notice");
  const slow = element("div", "ftk-note ftk-wait", "The kernel is busy: it answers when the running cell ends.", {
    role: "status",
  });
  slow.hidden = true;
  const kernel = requests(model, (isSlow) => (slow.hidden = !isSlow));

  const attempt = async (action, content, onError) => {
    notice.replaceChildren();
    try {
      await kernel.ask(action, content);
    } catch (error) {
      notice.replaceChildren(errorView(error));
      onError?.();
    }
  };
  const actions = {
    send: (text, onError) => {
      log.toEnd();
      return attempt("send", { text, mode: model.get("mode") }, onError);
    },
    stop: () => attempt("stop"),
    clear: () => attempt("clear"),
    regenerate: () => attempt("regenerate"),
    open: (path) => attempt("open", { path }),
    mode: (mode) => attempt("mode", { mode }, () => modes.draw()),
  };

  const log = transcript(model, actions);
  const empty = emptyView(model, actions);
  const modes = modeSwitch(model, actions.mode);
  const settings = settingsView(model, (values) => kernel.ask("settings", { values }));
  const compose = composer(actions);

  const note = element("span", "ftk-chip ftk-run", "", { role: "status" });
  const toggle = button("Settings", "Settings of the chat", "ftk-chat-quiet", () => {
    settings.node.hidden = !settings.node.hidden;
    toggle.setAttribute("aria-expanded", String(!settings.node.hidden));
  });
  toggle.setAttribute("aria-expanded", "false");
  toggle.setAttribute("aria-controls", settings.id);
  const clear = button("Clear", "Clear the conversation", "ftk-chat-quiet", actions.clear);
  const tools = element("div", "ftk-chat-tools");
  tools.append(toggle, clear);
  const bar = element("div", "ftk-chat-bar");
  bar.append(modes.node, note, tools);

  const status = element("div", "ftk-chat-status", undefined, { role: "status" });
  const statusText = element("span");
  const meter = element("div", "ftk-bar");
  const filled = element("span");
  meter.append(filled);
  status.append(statusText, meter);

  el.replaceChildren(bar, settings.node, empty.node, log.node, status, slow, notice, compose.node);

  const drawRest = () => {
    const subject = model.get("subject");
    setText(note, model.get("note"));
    note.hidden = model.get("note") === "";
    bar.hidden = !subject;
    clear.disabled = model.get("turns").length === 0 && model.get("live").id === undefined;
    const text = model.get("status");
    const fraction = model.get("fraction");
    setText(statusText, text);
    status.hidden = text === "";
    meter.hidden = fraction < 0;
    filled.style.width = `${Math.max(0, fraction) * 100}%`;
    compose.draw(subject, model.get("replying"));
  };
  const drawAll = () => {
    for (const part of [log, empty, modes, settings]) part.draw();
    drawRest();
  };
  // Several traits change at once: one drawing for all of them.
  let asked = false;
  const draw = () => {
    if (asked) return;
    asked = true;
    queueMicrotask(() => {
      asked = false;
      drawAll();
    });
  };
  // The next piece of a reply comes when this one is on the screen.
  const onLive = () => requestAnimationFrame(() => model.send({ drawn: model.get("live").update }));
  model.on("change", draw);
  model.on("change:live", onLive);
  drawAll();
  log.toEnd();
  return () => {
    model.off("change", draw);
    model.off("change:live", onLive);
    kernel.end();
    log.end();
  };
}

export default { render };
