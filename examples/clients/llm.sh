#!/bin/sh
# The command `llm`, with a Loquent server as one of its models: pip install llm; sh llm.sh
set -eu
folder=$(dirname "$(llm logs path)")
test -e "$folder/extra-openai-models.yaml" || cat > "$folder/extra-openai-models.yaml" <<END
- model_id: loquent
  model_name: default
  api_base: ${LOQUENT_URL:-http://127.0.0.1:8700}/v1
  supports_tools: true
  supports_schema: true
END
export OPENAI_API_KEY="${LOQUENT_API_KEY:-none}"
llm -m loquent "${1:-Name the capital of France.}"
llm -m loquent --continue "And of Italy?"
llm -m loquent --schema "name, country" "The capital of France."
