/** The entry: what the system may start without a screen comes before the app. */

import { registerRootComponent } from "expo";
import "./src/background";
import { App } from "./src/App";

registerRootComponent(App);
