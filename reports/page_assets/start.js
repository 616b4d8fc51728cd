document.addEventListener("DOMContentLoaded", () => {
  if (matchMedia("(max-width: 68rem)").matches) document.getElementById("contents").open = false;
  startTheme();
  startTips();
  startTables();
  startPlot();
  startImages();
});
