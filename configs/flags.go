package configs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// BindFlags gives fs a flag for every option of p and returns the map for
// Sources.Flags, which fs.Parse fills. Load checks the values, so that a message
// is the same whatever layer a value comes from.
func BindFlags(fs *pflag.FlagSet, p Program) map[string][]string {
	given := map[string][]string{}
	for i := range table {
		o := &table[i]
		if o.Readers&p == 0 {
			continue
		}
		usage := o.Doc
		if b := o.Bounds(); b != "" {
			usage += fmt.Sprintf(" (%s)", b)
		}
		f := fs.VarPF(&flagValue{o, given}, o.Flag(), o.short, usage)
		if o.Kind == KindBool {
			f.NoOptDefVal = "true"
		}
	}
	return given
}

// FlagError puts what pflag says of a value that is none into the words of this project,
// without those of the functions that read numbers.
func FlagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	why := invalid.Unwrap().Error()
	if number, ok := errors.AsType[*strconv.NumError](err); ok {
		why = "want a number"
		switch kind := invalid.GetFlag().Value.Type(); {
		case kind == "bool":
			why = "want true or false"
		case errors.Is(number, strconv.ErrRange):
			why = "it is out of range"
		case strings.HasPrefix(kind, "uint"):
			why = "want a whole number that is not below 0"
		case strings.HasPrefix(kind, "int"):
			why = "want a whole number"
		}
	}
	return fmt.Errorf("invalid value %q for --%s: %s", invalid.GetValue(), invalid.GetFlag().Name, why)
}

type flagValue struct {
	option *Option
	given  map[string][]string
}

func (v *flagValue) String() string {
	if v.option == nil { // pflag asks a zero value
		return ""
	}
	return v.option.Default
}

func (v *flagValue) Set(text string) error {
	v.given[v.option.Key] = append(v.given[v.option.Key], text)
	return nil
}

func (v *flagValue) Type() string { return v.option.Kind.String() }
