// What each client's script in JavaScript does: as cases.py in Python.

export const QUESTION = "What is the weather in Paris?";
export const INSTRUCTIONS = "You are a helpful assistant. Answer in one short sentence.";
const SECONDS = 60; // that one case may take

// The function that clients offer; it remembers the arguments that it was called with.
export class Weather {
  name = "get_weather";
  description = "Get the current weather of a city.";
  calls = [];

  run(args) {
    this.calls.push(args);
    return `It is sunny in ${args.city}, 21 degrees.`;
  }
}

export async function report(cases) {
  const address = process.argv[2];
  const told = {};
  for (const [name, run] of Object.entries(cases)) {
    const began = performance.now();
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${name} took more than ${SECONDS} s`)), SECONDS * 1000);
    });
    try {
      told[name] = { result: await Promise.race([run(address), late]) };
    } catch (error) {
      told[name] = { error: `${error?.stack ?? error} ${JSON.stringify(error)}` };
    }
    clearTimeout(timer);
    told[name].seconds = Math.round((performance.now() - began) / 10) / 100;
  }
  console.log("\n" + JSON.stringify(told));
  process.exit(0);
}
