// Which runs there are: looked up when TensorBoard has loaded data anew, and now and then while the tab is open.

import { onReload } from "./host.js";
import { fetchRuns } from "./requests.js";

const PERIOD = 10000; // ms

/** Return `{runs, problem, isLoading, look}`; `changed` is called with the runs when a look begins and when it ends. */
export function watchRuns(changed) {
  const watched = { runs: null, problem: null, isLoading: false, look };
  let looked = 0;

  async function look() {
    looked = performance.now();
    watched.isLoading = true;
    changed(watched.runs);
    try {
      watched.runs = (await fetchRuns()) ?? watched.runs;
      watched.problem = null;
    } catch (error) {
      watched.problem = error.message;
    }
    watched.isLoading = false;
    changed(watched.runs);
  }

  // A frame without height: another tab of TensorBoard is open.
  const isSeen = () => !document.hidden && window.innerHeight > 0;
  const lookIfLate = () => {
    if (isSeen() && performance.now() - looked >= PERIOD) look();
  };
  onReload(look);
  document.addEventListener("visibilitychange", lookIfLate);
  window.addEventListener("resize", lookIfLate);
  setInterval(lookIfLate, PERIOD / 4);
  return watched;
}
