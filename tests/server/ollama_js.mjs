// Driven by test_ollama_js.py: streaming, chat, embed and abort with the npm client.
import { Ollama } from "ollama";

const client = new Ollama({ host: process.argv[2] });
const options = { temperature: 0, num_predict: 5 };
const messages = [{ role: "user", content: "hello" }];
const told = {};

const whole = await client.chat({ model: "m", messages, options });
let streamed = "";
for await (const part of await client.chat({ model: "m", messages, options, stream: true }))
  streamed += part.message.content;
told.same = streamed === whole.message.content && whole.done === true;
told.version = (await client.version()).version;
told.vectors = (await client.embed({ model: "e", input: ["a", "b"] })).embeddings.length;
told.models = (await client.list()).models.map((model) => model.name);

const long = await client.generate({
  model: "m", prompt: "go on", stream: true, options: { temperature: 0, num_predict: 3000 },
});
try {
  let seen = 0;
  for await (const _ of long) if (++seen === 3) client.abort();
  told.aborted = false;
} catch (error) {
  told.aborted = error.name === "AbortError";
}
try {
  await client.chat({ model: "nope", messages });
} catch (error) {
  told.error = error.message;
}
console.log(JSON.stringify(told));
