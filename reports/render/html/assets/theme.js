// Storage may throw in a file opened from disk: then a choice lasts as long as the page.
const themeMemory = {
  read() {
    try { return localStorage.getItem("fastflux-theme"); } catch { return null; }
  },
  write(name) {
    try { localStorage.setItem("fastflux-theme", name); } catch { /* not kept */ }
  },
};

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function startTheme() {
  const button = document.getElementById("theme");
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.title = "Switch between dark and light";
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    themeMemory.write(document.documentElement.dataset.theme);
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
  button.hidden = false;
}

// At once, before anything is painted.
if (["dark", "light"].includes(themeMemory.read())) document.documentElement.dataset.theme = themeMemory.read();
