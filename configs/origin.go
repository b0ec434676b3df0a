package configs

import "fmt"

// A Layer is a source of values. A higher one wins.
type Layer uint8

// The layers, from the weakest to the strongest.
const (
	LayerDefault Layer = iota
	LayerFile
	LayerEnv
	LayerFlag
)

func (l Layer) String() string {
	return [...]string{"default", "file", "environment", "flag"}[l]
}

// An Origin is where a value was written.
type Origin struct {
	Layer Layer
	Name  string // of the file, the variable or (with its dashes) the flag
	Line  int    // in the file, from 1
}

func (o Origin) String() string {
	switch o.Layer {
	case LayerFile:
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case LayerEnv, LayerFlag:
		return o.Layer.String() + " " + o.Name
	default:
		return "default"
	}
}
