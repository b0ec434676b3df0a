package controlplane

import (
	"reflect"
	"testing"
)

// The services that several packages make up together have no method that nobody has
// built: an embedded Unimplemented would answer for it.
func TestComposedServicesHaveEveryStream(t *testing.T) {
	for _, c := range []struct {
		api    any
		method string
	}{
		{agentAPI{}, "Output"}, {commandAPI{}, "Follow"}, {peerAPI{}, "Output"}, {peerAPI{}, "StoreOutput"},
	} {
		m, ok := reflect.TypeOf(c.api).MethodByName(c.method)
		if !ok {
			t.Errorf("%T has no %s", c.api, c.method)
			continue
		}
		func() { // one that is built needs its parts, an Unimplemented does not
			defer func() {
				if recover() == nil {
					t.Errorf("%T does not answer %s by itself", c.api, c.method)
				}
			}()
			in := []reflect.Value{reflect.ValueOf(c.api)}
			for i := 1; i < m.Type.NumIn(); i++ {
				in = append(in, reflect.Zero(m.Type.In(i)))
			}
			m.Func.Call(in)
		}()
	}
}
