package main

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/proto/client"
)

func TestTokenWhoseAnswerWasLostIsGotByRepeating(t *testing.T) {
	const id = "01890000-0000-7000-8000-0000000000ab"
	if hint := tokenHint(&client.Error{Code: codes.Unavailable, OutcomeUnknown: true}, id); !strings.Contains(hint, "repeat the command with --id "+id) {
		t.Errorf("hint is %q", hint)
	}
	if hint := tokenHint(&client.Error{Code: codes.PermissionDenied, Hint: "ask"}, id); hint != "ask" {
		t.Errorf("hint of a refusal is %q, want the node's", hint)
	}
}
