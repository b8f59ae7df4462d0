# JSON on standard input, JSON on standard output: {"text": "…"} becomes {"lines": 2, "words": 5}.
text=$(sed 's/^{"text":"//; s/"}$//; s/\\n/\n/g')
printf '{"lines": %d, "words": %d}\n' \
  "$(printf '%s\n' "$text" | wc -l)" "$(printf '%s\n' "$text" | wc -w)"
