// Fits a page into Airflow's frame around it: light and dark as Airflow has them; links to Airflow's
// own pages open in Airflow, and those to other sites (MLflow) in a tab of their own, which the frame
// itself may not open.
"use strict";
(() => {
  if (window.parent === window) return;
  const outer = window.parent.document.documentElement;
  const adopt = () => {
    const dark = outer.classList.contains("dark");
    if (dark || outer.classList.contains("light")) {
      document.documentElement.dataset.theme = dark ? "dark" : "light";
    }
  };
  adopt();
  new MutationObserver(adopt).observe(outer, { attributeFilter: ["class"] });
  const own = new URL(document.currentScript.src).pathname.replace(/frame\.js$/, "");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey) return;
    const there = new URL(link.href);
    const elsewhere = there.origin !== window.location.origin;
    if (!elsewhere && there.pathname.startsWith(own)) return;
    event.preventDefault();
    if (elsewhere) {
      const tab = window.parent.document.createElement("a");
      Object.assign(tab, { href: there.href, target: "_blank", rel: "noopener" });
      tab.click();
      return;
    }
    window.parent.history.pushState({}, "", there.href);
    window.parent.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
  });
})();
