# Runs each line that comes over the second serial line, and answers with what it said and how it ended.
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
echo '@@up'
while IFS= read -r line; do
  output=$(sh -c "$line" 2>&1 </dev/null)
  printf '%s\n@@end %s\n' "$output" "$?"
done
