// The log of the Go checksum database, to compare ours with: questions on standard input, one JSON document a line,
// and an answer to each on standard output. Hashes and bytes are base64.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type question struct {
	Ask     string            `json:"ask"`
	Text    string            `json:"text"`
	Key     string            `json:"key"`
	Entries [][]byte          `json:"entries"`
	Tiles   map[string][]byte `json:"tiles"`
	Size    int64             `json:"size"`
	Old     int64             `json:"old"`
	Index   int64             `json:"index"`
	Level   int               `json:"level"`
	Width   int               `json:"width"`
	Root    tlog.Hash         `json:"root"`
	OldRoot tlog.Hash         `json:"old_root"`
	Leaf    tlog.Hash         `json:"leaf"`
	Proof   []tlog.Hash       `json:"proof"`
}

type answer struct {
	Text  string      `json:"text"`
	Key   string      `json:"key"`
	Root  tlog.Hash   `json:"root"`
	Proof []tlog.Hash `json:"proof"`
	Path  string      `json:"path"`
	Data  []byte      `json:"data"`
	Error string      `json:"error"`
}

// The hashes of the log that Go grew itself, in its own order.
type grown []tlog.Hash

func (g grown) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		found[i] = g[index]
	}
	return found, nil
}

// The tiles that OneSeek wrote, by their paths.
type served map[string][]byte

func (s served) Height() int { return height }

func (s served) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(tiles))
	for i, tile := range tiles {
		data, ok := s[pathOf(tile)]
		if !ok {
			return nil, fmt.Errorf("there is no %s", pathOf(tile))
		}
		found[i] = data
	}
	return found, nil
}

func (s served) SaveTiles([]tlog.Tile, [][]byte) {}

func tileOf(q question) tlog.Tile {
	return tlog.Tile{H: height, L: q.Level, N: q.Index, W: q.Width}
}

// pathOf is a tile's path in c2sp.org/tlog-tiles, which is Go's without the height.
func pathOf(tile tlog.Tile) string {
	return "tile/" + tile.Path()[len("tile/8/"):]
}

var (
	own    grown
	theirs served
)

// hashes are those of Go's log, or, where the question names a root, of our tiles, checked against it.
func hashes(q question) tlog.HashReader {
	if q.Root == (tlog.Hash{}) {
		return own
	}
	return tlog.TileHashReader(tlog.Tree{N: q.Size, Hash: q.Root}, theirs)
}

func reply(q question) (a answer, err error) {
	switch q.Ask {
	case "new key":
		a.Key, a.Text, err = note.GenerateKey(nil, q.Text)
	case "open":
		a.Text, err = open(q.Text, q.Key)
	case "sign":
		a.Text, err = sign(q.Text, q.Key)
	case "grow":
		own, err = grow(q.Entries)
	case "serve":
		theirs = q.Tiles
	case "root":
		a.Root, err = tlog.TreeHash(q.Size, hashes(q))
	case "prove inclusion":
		a.Proof, err = tlog.ProveRecord(q.Size, q.Index, hashes(q))
	case "prove consistency":
		a.Proof, err = tlog.ProveTree(q.Size, q.Old, hashes(q))
	case "check inclusion":
		err = tlog.CheckRecord(q.Proof, q.Size, q.Root, q.Index, q.Leaf)
	case "check consistency":
		err = tlog.CheckTree(q.Proof, q.Size, q.Root, q.Old, q.OldRoot)
	case "path":
		a.Path = pathOf(tileOf(q))
	case "tile":
		a.Path = pathOf(tileOf(q))
		a.Data, err = tlog.ReadTileData(tileOf(q), own)
	default:
		err = errors.New("unknown question")
	}
	return a, err
}

func open(text, key string) (string, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return "", err
	}
	opened, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return "", err
	}
	return opened.Text, nil
}

func sign(text, key string) (string, error) {
	signer, err := note.NewSigner(key)
	if err != nil {
		return "", err
	}
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	return string(signed), err
}

func grow(entries [][]byte) (log grown, err error) {
	for i, entry := range entries {
		added, err := tlog.StoredHashes(int64(i), entry, log)
		if err != nil {
			return nil, err
		}
		log = append(log, added...)
	}
	return log, nil
}

func main() {
	questions, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var q question
		if questions.Decode(&q) != nil {
			return
		}
		a, err := reply(q)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		answers.Encode(a)
	}
}
