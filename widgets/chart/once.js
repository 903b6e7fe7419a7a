// What anywidget loads for a chart. It waits two seconds for a widget's module, and where that comes later the widget shows
// what it was made with and never hears of a change. Plotly's is 5 MB, for which a busy page needs longer: it is loaded by
// this small module, once a page for all charts, from the widget that carries it.
const modules = (globalThis.ftkModules ??= new Map());

function plotly(model) {
  const id = model.get("_plotly");
  if (!modules.has(id)) {
    const loading = model.widget_manager.get_model(id).then((carrier) => {
      const url = URL.createObjectURL(new Blob([carrier.get("module")], { type: "text/javascript" }));
      return import(url).finally(() => URL.revokeObjectURL(url));
    });
    modules.set(id, loading);
    loading.catch(() => modules.delete(id)); // the next chart tries again
  }
  return modules.get(id);
}

export default () => {
  let chart;
  return {
    initialize({ model }) {
      chart = plotly(model).then(async (module) => {
        const made = module.default();
        await made.initialize({ model });
        return made;
      });
      chart.catch(() => {}); // each view says so
    },
    async render(context) {
      const end = await (await chart).render(context);
      context.model.send({ shown: true });
      return end;
    },
  };
};
