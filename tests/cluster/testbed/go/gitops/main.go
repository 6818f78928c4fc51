// What GitOps tools make of an object, by their own libraries: kstatus (Flux, cli-utils), Flux's health check
// expressions, and Lua as Argo CD runs it. Reads a JSON array of questions and writes the array of answers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
)

// Question is about one object: its Lua answer, its health by Flux's expressions, or without either its kstatus.
type Question struct {
	Object      json.RawMessage                   `json:"object"`
	Lua         string                            `json:"lua,omitempty"`
	Expressions *kustomize.HealthCheckExpressions `json:"expressions,omitempty"`
}

func main() {
	var questions []Question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		fail(err)
	}
	answers := make([]any, 0, len(questions))
	for _, question := range questions {
		answer, err := question.answer()
		if err != nil {
			fail(err)
		}
		answers = append(answers, answer)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (question Question) answer() (any, error) {
	if question.Lua != "" {
		return runLua(question.Lua, question.Object)
	}
	var object unstructured.Unstructured
	if err := object.UnmarshalJSON(question.Object); err != nil {
		return nil, err
	}
	var result *status.Result
	var err error
	if question.Expressions == nil {
		result, err = status.Compute(&object)
	} else {
		result, err = evaluate(question.Expressions, &object)
	}
	if err != nil {
		return nil, err
	}
	return map[string]string{"status": result.Status.String(), "message": result.Message}, nil
}

func evaluate(expressions *kustomize.HealthCheckExpressions, object *unstructured.Unstructured) (*status.Result, error) {
	evaluator, err := cel.NewStatusEvaluator(expressions)
	if err != nil {
		return nil, err
	}
	return evaluator.Evaluate(context.Background(), object)
}

// runLua opens the libraries that Argo CD opens for scripts from argocd-cm (util/lua/lua.go of v3.5), its guarded
// `os` excepted, and gives the script the second that Argo CD gives it.
func runLua(script string, object json.RawMessage) (any, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	value, err := luajson.Decode(state, object)
	if err != nil {
		return nil, err
	}
	state.SetGlobal("obj", value)
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	returned := state.Get(-1)
	if returned.Type() != lua.LTTable {
		return nil, errors.New("the script returned no table")
	}
	encoded, err := luajson.Encode(returned)
	return json.RawMessage(encoded), err
}
