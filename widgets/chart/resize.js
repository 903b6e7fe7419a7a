// Appended to plotly's own widget module: plotly resizes a chart when the window does, but a notebook's chart also
// changes its width when a side bar opens or a hidden tab is shown.
{
  const observe = (event) => {
    const chart = event.detail?.element;
    if (!chart || chart.ftkObserved) return;
    chart.ftkObserved = true;
    let asked = 0;
    new ResizeObserver(() => {
      const drawn = chart.querySelector(".main-svg")?.getAttribute("width");
      if (!chart.closest(".ftk-run-chart") || chart.clientWidth === 0 || chart.clientWidth === Number(drawn)) return;
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(() => window.dispatchEvent(new Event("resize")));
    }).observe(chart);
  };
  document.addEventListener("plotlywidget-after-render", observe);
}
