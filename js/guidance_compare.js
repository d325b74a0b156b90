/** Compare Guidance, looked at closely: two cells over each other, and their settings put back into the nodes. */

import { app } from "../../scripts/app.js";
import { Closer, CSS } from "./closer/closer.js";
import { lastOf } from "./curves/runs.js";
import { addStyle } from "./curves/style.js";
import { say } from "./curves/words.js";

const KIND = "GuidanceCompare";

function look(node) {
  const cells = lastOf(node, "guidance_cells");
  if (cells) return new Closer(node, cells).show();
  const detail = say("Run the workflow first: then two cells can be seen over each other, and the better one kept.");
  app.extensionManager.toast.add({ severity: "info", summary: say("look closer"), detail, life: 6000 });
}

app.registerExtension({
  name: "guidancecomponents.Compare",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const button = node.addWidget("button", "look closer", null, () => look(node), { serialize: false });
    button.label = say("look closer");
    button.serialize = false; // not among the saved values
  },
  setup() {
    addStyle(CSS);
  },
});
