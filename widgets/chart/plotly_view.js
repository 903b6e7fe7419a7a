// Appended to plotly's own widget module, after `const ftkFigureView = <its view class, or undefined>;`.
{
  // Plotly resizes a chart when the window does, but a notebook's chart also changes its width when a side bar opens or a
  // hidden tab is shown. And where a run makes the chart higher, plotly takes its width as fixed, too, until told otherwise.
  function follow(chart) {
    if (!chart.closest(".ftk-run-chart")) return;
    delete chart.layout?.width;
    window.dispatchEvent(new Event("resize"));
  }

  document.addEventListener("plotlywidget-after-render", (event) => {
    const chart = event.detail?.element;
    if (!chart || chart.ftkObserved) return;
    chart.ftkObserved = true;
    let asked = 0;
    new ResizeObserver(() => {
      const drawn = chart.querySelector(".main-svg")?.getAttribute("width");
      if (!chart.closest(".ftk-run-chart") || chart.clientWidth === 0 || chart.clientWidth === Number(drawn)) return;
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(() => follow(chart));
    }).observe(chart);
    chart.on("plotly_relayout", () => {
      if (chart.layout?.width !== undefined) follow(chart);
    });
  });

  // A view that was taken off the page (its cell was run again) still hears of changes; it fails on them, and views
  // that come after it then hear nothing.
  const methods = ftkFigureView ? Object.getOwnPropertyNames(ftkFigureView.prototype) : [];
  for (const name of methods.filter((each) => each.startsWith("do_"))) {
    const original = ftkFigureView.prototype[name];
    ftkFigureView.prototype[name] = function (...parts) {
      return this.el?._fullLayout ? original.apply(this, parts) : undefined;
    };
  }
}
