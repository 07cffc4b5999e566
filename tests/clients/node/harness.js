// Runs named scenarios and says how each went, one line a scenario: see tests/clients/scenarios.py for the rules.
'use strict'

const assert = require('node:assert')
const readline = require('node:readline')

const lines = readline.createInterface({ input: process.stdin })
const answers = lines[Symbol.asyncIterator]()

async function runScenarios(scenarios, wanted) {
  for (const name of wanted.length ? wanted : Object.keys(scenarios)) {
    try {
      await scenarios[name]()
      console.log(`PASS ${name}`)
    } catch (problem) {
      console.error(problem)
      console.log(`FAIL ${name}: ${String(problem.message || problem).replaceAll('\n', ' ')}`)
    }
  }
  lines.close()
}

/** Have the runner do something to the broker; resolves when it is done. */
async function ask(what) {
  console.log(`DO ${what}`)
  assert.strictEqual((await answers.next()).value, 'DONE')
}

/** Wait until it holds, for at most 30 seconds. */
async function eventually(what, holds) {
  const deadline = Date.now() + 30000
  while (!(await holds())) {
    assert(Date.now() < deadline, `not within 30 s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** The promise must be rejected with one of Kafka's errors, by itself or as a cause. */
async function fails(type, promise) {
  let seen
  try {
    await promise
  } catch (problem) {
    for (const one of [problem, problem.cause, ...(problem.errors || [])]) {
      if (one && one.type === type) return
    }
    seen = problem
  }
  assert.fail(`expected ${type}, got ${seen ? `${seen.type} ${seen.message}` : 'no error'}`)
}

/** Tells null from empty. */
function same(expected, actual, what) {
  const show = (value) => (value === null ? 'null' : `${value.length} bytes ${value.toString('hex', 0, 16)}`)
  const matches = expected === null || actual === null ? expected === actual : expected.equals(actual)
  assert(matches, `${what}: expected ${show(expected)}, got ${show(actual)}`)
}

module.exports = { runScenarios, ask, eventually, fails, same }
