/**
 * How strong guidance is over noise: schedules, experts and loss weights, as guidance/schedule.py, guidance/routing.py
 * and guidance/training/weighting.py have them. tests/test_curves.py holds the two equal. No page, no nodes in here.
 *
 * A level is { percent, sigma, ve }: position in the training timesteps (0 = pure noise), the model's own sigma, and
 * noise to signal. A strength is a function of a level.
 */

const STEPS = 32; // pieces of half a cosine
const SMALLEST_SIGMA = 1e-6; // curves run along log sigma, which has no 0

/** 1 inside, 0 outside; the noisy end is included, the clean end is not. */
export function interval(start, end, unit) {
  if (unit !== "percent") return ({ sigma }) => Number(sigma <= start && sigma > end);
  return ({ percent }) => Number(percent >= start && (percent < end || end >= 1));
}

/** Straight lines through [position, strength] from noisy to clean, in percent or in log sigma. */
export function curve(points, unit, noise) {
  if (unit === "percent") {
    const positions = points.map(([position]) => position);
    const strengths = points.map(([, strength]) => strength);
    return ({ percent }) => between(percent, positions, strengths);
  }
  const rising = [...points].reverse();
  const knots = rising.map(([sigma]) => Math.log(noise.knot(Math.max(sigma, SMALLEST_SIGMA))));
  const strengths = rising.map(([, strength]) => strength);
  return ({ ve }) => between(Math.log(ve), knots, strengths);
}

/** From strength `from` at `start` to `to` at `end`, straight or along half a cosine. */
export function ramp(from, to, start, end, unit, noise, cosine) {
  const [first, last] = [start, end].map((v) => (unit === "percent" ? v : Math.max(v, SMALLEST_SIGMA)));
  const steps = cosine ? STEPS : 1;
  const points = Array.from({ length: steps + 1 }, (_, i) => {
    const f = i / steps;
    const position = unit === "percent" ? first + (last - first) * f : first ** (1 - f) * last ** f;
    return [position, from + (to - from) * (cosine ? (1 - Math.cos(Math.PI * f)) / 2 : f)];
  });
  return curve(points, unit, noise);
}

/** Piecewise linear through (knots, values), knots not falling; constant beyond the ends. */
export function between(x, knots, values) {
  const last = knots.length - 1;
  const inside = Math.min(Math.max(x, knots[0]), knots[last]);
  let right = knots.findIndex((knot) => knot >= inside);
  right = Math.min(Math.max(right, 1), last);
  const width = knots[right] - knots[right - 1];
  const part = width > 0 ? (inside - knots[right - 1]) / width : 1;
  return values[right - 1] + (values[right] - values[right - 1]) * part;
}

/** How much of the guidance each expert gives, cleanest first. edges: rising, noise to signal; handover: in its log. */
export function inCharge(edges, handover) {
  return ({ ve }) => {
    const passed = edges.map((edge) => {
      const distance = Math.log(ve) - Math.log(edge);
      return handover > 0 ? Math.min(Math.max(distance / handover + 0.5, 0), 1) : Number(distance >= 0);
    });
    return [...passed, 0].map((share, i) => (i === 0 ? 1 : passed[i - 1]) - share);
  };
}

/** The weights of CFG and of autoguidance for a total weight and a mix (2406.02507 Eq. 6). */
export function split(total, mix) {
  return [(1 - mix) * (total - 1) + 1, mix * (total - 1) + 1];
}

/** A loss weight as a share of the training: on v, on which an untrained network errs alike at every noise level. */
export function onVelocity(weighting, { k, gamma, min_snr_gamma }) {
  const weights = {
    p2: (snr) => snr / (k + snr) ** gamma,
    "min-SNR": (snr) => Math.min(snr, min_snr_gamma),
    x0: () => 1,
    eps: (snr) => snr,
    v: (snr) => 1 + snr,
    flow: (snr) => (1 + Math.sqrt(snr)) ** 2,
  };
  return ({ ve }) => weights[weighting](ve ** -2) / (1 + ve ** -2);
}

/** The same times a constant, so that its mean over these levels is 1. */
export function withMeanOne(strength, levels) {
  let mean;
  return (level) => {
    mean ??= levels.reduce((sum, one) => sum + strength(one), 0) / levels.length;
    return strength(level) / mean;
  };
}
