// Runs named scenarios and says how each went, one line a scenario: see tests/clients/scenarios.py for the rules.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

type scenario struct {
	name string
	run  func()
}

var input = bufio.NewReader(os.Stdin)

type failure string

func runScenarios(all []scenario, wanted []string) {
	byName := map[string]scenario{}
	for _, s := range all {
		byName[s.name] = s
	}
	if len(wanted) == 0 {
		for _, s := range all {
			wanted = append(wanted, s.name)
		}
	}
	for _, name := range wanted {
		fmt.Println(verdict(byName[name], name))
	}
}

func verdict(s scenario, name string) (line string) {
	defer func() {
		if problem := recover(); problem != nil {
			if _, ours := problem.(failure); !ours {
				debug.PrintStack()
			}
			line = "FAIL " + name + ": " + strings.ReplaceAll(fmt.Sprint(problem), "\n", " ")
		}
	}()
	s.run()
	return "PASS " + name
}

// ask has the runner do something to the broker; returns when it is done.
func ask(what string) {
	fmt.Println("DO " + what)
	answer, _ := input.ReadString('\n')
	check(strings.TrimSpace(answer) == "DONE", "the runner answered %q", answer)
}

func check(holds bool, format string, arguments ...any) {
	if !holds {
		panic(failure(fmt.Sprintf(format, arguments...)))
	}
}

func ok(err error) {
	check(err == nil, "%v", err)
}

func equal[T comparable](expected, actual T, what string) {
	check(expected == actual, "%s: expected %v, got %v", what, expected, actual)
}

// same tells nil from empty.
func same(expected, actual []byte, what string) {
	check(bytes.Equal(expected, actual) && (expected == nil) == (actual == nil),
		"%s: expected %d bytes %.16q, got %d bytes %.16q", what, len(expected), expected, len(actual), actual)
}

func fails(expected, actual error) {
	check(errors.Is(actual, expected), "expected %v, got %v", expected, actual)
}

// eventually polls until it holds, for at most 30 seconds.
func eventually(what string, holds func() bool) {
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		check(time.Now().Before(deadline), "not within 30 s: %s", what)
		time.Sleep(20 * time.Millisecond)
	}
}
