// Reads an AsyncAPI document from standard input, and prints what AsyncAPI's own parser finds in it:
// its problems, and the operations, each with its action and the names of its messages.

const { Parser } = require("@asyncapi/parser");

async function main() {
  const text = require("fs").readFileSync(0, "utf8");
  const { document, diagnostics } = await new Parser().parse(text);
  const problems = diagnostics.map(({ severity, message, path }) => {
    return { severity, message, path: path.join(".") };
  });
  const operations = document?.operations().all() ?? [];
  const found = operations.map((operation) => {
    const messages = operation.messages().all().map((message) => message.name());
    const addresses = operation.channels().all().map((channel) => channel.address() ?? null);
    return { id: operation.id(), action: operation.action(), addresses, messages };
  });
  console.log(JSON.stringify({ problems, operations: found }));
}

main();
