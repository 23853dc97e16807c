// Of Observable Plot, what report/assets/charts.js draws with. The rest is left out of the bundle.
export {
  barX,
  dot,
  line,
  plot,
  pointer,
  pointerX,
  pointerY,
  ruleX,
  ruleY,
  text,
  tickX,
  tip,
} from "@observablehq/plot";
