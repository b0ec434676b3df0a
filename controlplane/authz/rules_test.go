package authz

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/agentplane/agentplane/fsm"
)

// Every method of the API, wherever its file, must name a permission that somebody
// or some role has: a new service that forgets it is denied to all, and noticed
// here.
func TestEveryMethodNamesAPermission(t *testing.T) {
	rules := Rules()
	special := map[string]bool{Public: true, Renew: true, Agent: true, Peer: true, Local: true}
	seen := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("agentplane.v1", func(f protoreflect.FileDescriptor) bool {
		for s := range f.Services().Len() {
			for m := range f.Services().Get(s).Methods().Len() {
				seen++
				name := fullName(f.Services().Get(s), f.Services().Get(s).Methods().Get(m))
				rule, ok := rules[name]
				switch {
				case !ok:
					t.Errorf("%s names no permission, or its file is missing from Rules", name)
				case !special[rule.Permission] && grants[rule.Permission] == "":
					t.Errorf("%s names the permission %q, which no role has", name, rule.Permission)
				}
			}
		}
		return true
	})
	if seen < 30 || seen != len(rules) {
		t.Errorf("saw %d methods, Rules has %d", seen, len(rules))
	}
}

func TestRolesGrow(t *testing.T) {
	for permission, least := range grants {
		for _, role := range roles {
			if want := rank(role) >= rank(least); Allowed(role, permission) != want {
				t.Errorf("Allowed(%q, %q) = %v, want %v", role, permission, !want, want)
			}
		}
		for _, nobody := range []string{"", "root", "Admin"} {
			if Allowed(nobody, permission) {
				t.Errorf("role %q has %q", nobody, permission)
			}
		}
		if strings.HasSuffix(permission, ".create") && Allowed("operator", permission) {
			t.Errorf("an operator may %s", permission)
		}
	}
	if Allowed("admin", "cluster.explode") {
		t.Error("a permission that nobody declared is granted")
	}
}

// The names of the roles stand in the state, too, and a token for each is taken.
func TestEveryRoleMayBeGiven(t *testing.T) {
	if got := []string{fsm.RoleViewer, fsm.RoleRunner, fsm.RoleOperator, fsm.RoleAdmin}; !slices.Equal(got, roles) {
		t.Errorf("the state knows the roles %q, the rules %q", got, roles)
	}
	if Allowed(fsm.RoleRunner, "commands.submit") || !Allowed(fsm.RoleRunner, "templates.run") || Allowed(fsm.RoleViewer, "templates.run") {
		t.Error("a runner runs templates, and nothing else, and a viewer not even these")
	}
}
