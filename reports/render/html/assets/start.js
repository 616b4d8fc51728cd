// A link into something folded unfolds it first.
function unfold(hash) {
  const target = document.getElementById(hash.slice(1));
  for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
}

document.addEventListener("DOMContentLoaded", () => {
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link) unfold(link.getAttribute("href"));
  });
  unfold(location.hash);
  if (matchMedia("(max-width: 68rem)").matches) document.getElementById("contents").open = false;
  startTheme();
  startTips();
  startTables();
  startPlot();
  startImages();
});
