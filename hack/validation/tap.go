// Package tap prints results in the Test Anything Protocol, version 13. It has
// what the suite calls of the package of this name, which Debian has not.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T numbers the results of one program.
type T struct {
	next *int
	mark string
}

// New begins with the first result.
func New() *T {
	next := 1
	return &T{next: &next, mark: "-"}
}

// Todo gives results that are not expected to be good.
func (t *T) Todo() *T {
	return &T{next: t.next, mark: "# TODO"}
}

// Header prints the version and, if it is known, the number of results.
func (t *T) Header(count int) {
	fmt.Println("TAP version 13")
	if count > 0 {
		fmt.Printf("1..%d\n", count)
	}
}

// Ok prints a result.
func (t *T) Ok(passed bool, description string) {
	word := "ok"
	if !passed {
		word = "not ok"
	}
	fmt.Printf("%s %d %s %s\n", word, *t.next, t.mark, description)
	*t.next++
}

// Pass prints a result that is good.
func (t *T) Pass(description string) {
	t.Ok(true, description)
}

// Fail prints a result that is bad.
func (t *T) Fail(description string) {
	t.Ok(false, description)
}

// Skip prints results that cannot be had here.
func (t *T) Skip(count int, reason string) {
	for ; count > 0; count-- {
		fmt.Printf("ok %d # SKIP %s\n", *t.next, reason)
		*t.next++
	}
}

// AutoPlan prints how many results there were.
func (t *T) AutoPlan() {
	fmt.Printf("1..%d\n", *t.next-1)
}

// Diagnostic prints a remark.
func (t *T) Diagnostic(message string) {
	for _, line := range strings.Split(message, "\n") {
		fmt.Println("#", line)
	}
}

// Diagnosticf prints a remark.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML prints details of the last result; JSON is YAML.
func (t *T) YAML(details interface{}) error {
	text, err := json.MarshalIndent(details, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Printf("  ---\n  %s\n  ...\n", text)
	return nil
}
