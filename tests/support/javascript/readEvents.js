// Prints the events in records, one a line. Standard input has the records in JSON: each with its
// key and its headers as text, and its value in Base64. Each event is an object of its attributes
// as text, and of its data in Base64; null where the SDK finds no event in a record without a value.

const { Kafka } = require("cloudevents");

function members(event) {
  const { data, data_base64, ...found } = event.toJSON();
  const attributes = {};
  for (const [name, value] of Object.entries(found)) {
    if (value != null) attributes[name] = String(value);
  }
  return { attributes, data: data_base64 ?? Buffer.from(JSON.stringify(data)).toString("base64") };
}

function read({ key, headers, value }) {
  // A value in structured mode is text to the SDK, and one in binary mode bytes.
  const isText = headers["content-type"]?.startsWith("application/cloudevents+json");
  const bytes = value === null ? null : Buffer.from(value, "base64");
  return Kafka.toEvent({ key, headers, value: isText ? bytes.toString() : bytes });
}

for (const record of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
  let found = null;
  try {
    found = members(read(record));
  } catch (error) {
    if (record.value !== null) throw error;
  }
  console.log(JSON.stringify(found));
}
