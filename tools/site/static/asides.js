// A section whose heading begins with "Aside:" is folded, as in JupyterLab and on Colab.
document.addEventListener("DOMContentLoaded", () => {
  for (const section of document.querySelectorAll(".bd-article section")) {
    const heading = section.firstElementChild;
    if (!/^H[2-6]$/.test(heading.tagName) || !heading.textContent.startsWith("Aside:")) continue;
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    details.className = "aside-section";
    details.append(summary, ...[...section.childNodes].filter((node) => node !== heading));
    summary.append(heading);
    section.append(details);
  }
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target) {
    for (let up = target; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    target.querySelector("details")?.setAttribute("open", "");
    target.scrollIntoView();
  }
});
