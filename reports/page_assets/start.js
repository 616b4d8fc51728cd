document.addEventListener("DOMContentLoaded", () => {
  startTheme();
  startTips();
  startTables();
  startPlot();
  startImages();
});
