// The client is outside of this folder, where `npm install` links it from. Its own node_modules are for developing
// it; of React there must be one copy, this app's.
const path = require("node:path");
const { getDefaultConfig } = require("expo/metro-config");

const client = path.resolve(__dirname, "../..");
const config = getDefaultConfig(__dirname);
config.watchFolders = [client];
config.resolver.nodeModulesPaths = [path.join(__dirname, "node_modules")];
const own = path.join(client, "node_modules").replace(/[/\\.]/g, "\\$&");
config.resolver.blockList = [config.resolver.blockList ?? [], new RegExp(`^${own}/.*`)].flat();
module.exports = config;
