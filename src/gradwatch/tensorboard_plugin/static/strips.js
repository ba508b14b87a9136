// The curves of a run and of one of its layers: which there are, and what they mean.

import { createChart } from "./chart.js";

const RUN = [
  {
    title: "Loss",
    note: "Mean over each row; the largest of any step as a thin line. A mark on top: NaN or infinite.",
    curves: [
      { name: "loss", label: "mean", tone: "s0" },
      { name: "loss_max", label: "largest", tone: "s0", style: "faint" },
    ],
  },
  {
    title: "Total gradient norm",
    note: "L2 norm of all gradients, unscaled and before clipping; the limit of clipping as a dashed line.",
    curves: [
      { name: "grad_norm", label: "mean", tone: "s1" },
      { name: "grad_norm_max", label: "largest", tone: "s1", style: "faint" },
      { name: "max_norm", label: "limit", tone: "ink", style: "limit" },
    ],
  },
  {
    title: "Clip coefficient",
    note: "What gradients were multiplied by, the least of each row; 1 when nothing was clipped.",
    curves: [{ name: "clip_coefficient", label: "least", tone: "s2" }],
    axis: { log: false, bottom: 0, top: 1 },
    small: true,
  },
  {
    title: "Loss scale",
    note: "The scale of the GradScaler, the least of each row.",
    curves: [{ name: "loss_scale", label: "least", tone: "s3", digits: 7 }],
    small: true,
  },
  {
    title: "Lost steps",
    note: "Optimizer steps of each row on which something was not finite, and those whose update was dropped.",
    curves: [
      { name: "nonfinite_steps", label: "non-finite", tone: "incident", style: "bars" },
      { name: "skipped_steps", label: "skipped", tone: "s5", style: "bars" },
    ],
    axis: { log: false, bottom: 0 },
    small: true,
    quiet: true,
  },
  {
    title: "Learning rate",
    note: "Of the first parameter group.",
    curves: [{ name: "lr", label: "", tone: "s5" }],
    axis: { log: false, bottom: 0 },
    small: true,
  },
];

const LAYER = [
  {
    title: "Gradient norm",
    note: "L2 norm before clipping, the largest of each row.",
    curves: [{ name: "grad_norm", label: "", tone: "s1" }],
  },
  { title: "Weight norm", note: "L2 norm of the weights.", curves: [{ name: "weight_norm", label: "", tone: "s0" }] },
  {
    title: "Update ratio",
    note: "Norm of the change by the optimizer, divided by the weight norm.",
    curves: [{ name: "update_ratio", label: "", tone: "s2" }],
  },
  {
    title: "Non-finite",
    note: "Elements of the gradient that were NaN or infinite.",
    curves: [{ name: "nonfinite", label: "", tone: "incident", style: "bars" }],
    axis: { log: false, bottom: 0 },
    small: true,
    quiet: true,
  },
];

/** Return the lanes with the curves of a run. */
export function runStrips(card) {
  return RUN.map((about) => strip(card, about));
}

/** Return the lanes with the curves of a layer. */
export function layerStrips(card) {
  return LAYER.map((about) => strip(card, about));
}

/** A quiet strip shows only where it has something to tell: all its values being zero is no news. */
function strip(card, about) {
  const lane = createChart(card, about);
  lane.plot.classList.toggle("small", Boolean(about.small));
  lane.gutter.classList.toggle("small", Boolean(about.small));
  if (!about.quiet) return lane;
  const isNews = (data) =>
    about.curves.some(({ name }) => data?.series[name]?.some((value) => value !== null && value !== 0));
  return { ...lane, draw: (context, data) => lane.draw(context, isNews(data) ? data : null) };
}
