# Azurite: Azure Blob Storage's interface, from npm. The account and its key are
# those that every Azurite has.
# shellcheck shell=bash disable=SC2034,SC2154
azurite_variables=(AZURITE_ENDPOINT AZURITE_KEY)

azurite_absent() {
    if ! command -v npm >/dev/null; then absent "it needs npm" azure; fi
}

azurite_start() {
    local folder=$work/$name tools=$cache/azurite-3.35.0 port
    if [[ ! -d $tools ]]; then
        npm install --prefix "$tools.part" --ignore-scripts --no-audit --no-fund azurite@3.35.0
        mv "$tools.part" "$tools"
    fi
    port=$(free_port)
    mkdir "$folder/root"
    cd "$folder" || return
    # In memory, and whatever version of the interface it is spoken to in.
    setsid node "$tools/node_modules/azurite/dist/src/blob/main.js" --inMemoryPersistence --silent \
        --blobHost 127.0.0.1 --blobPort "$port" --disableTelemetry --skipApiVersionCheck &
    give AZURITE_ENDPOINT "http://127.0.0.1:$port/devstoreaccount1"
    give AZURITE_KEY 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='
    retry 60 azurite_answers
}

# It answers without a signature too, with a refusal.
azurite_answers() { curl -s "$STRONGROOM_TEST_AZURITE_ENDPOINT?comp=list" | grep -q Error; }
