// Loaded before every test file: a promise that fails unheard fails the file, also between tests and after the last.
process.on("unhandledRejection", (error) => {
  console.error("nobody heard of", error);
  process.exitCode = 1;
});
