# shellcheck shell=bash
# Makes docker-archives: files for `docker load` and `ctr images import`.
#
# Use: `source` this file after lib.sh, then, in a folder of yours,
#
#   layer FOLDER NAME ROOT      write FOLDER/NAME.tar, what ROOT contains, and its digest, FOLDER/NAME.sum
#   archive FOLDER IMAGE...     write FOLDER/images.tar; IMAGE is `NAME LAYER[,LAYER] CONFIG`
#
# CONFIG is what is between the braces of an image's JSON: "Entrypoint":["/x"]. PATH is added to its "Env".
# Needs jq.

layer() {
    tar -C "$3" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --numeric-owner --owner=0 --group=0 \
        -c . >"$1/$2.tar"
    sha256sum <"$1/$2.tar" | cut -d' ' -f1 >"$1/$2.sum"
}

archive() {
    local folder=$1 image name layers config all='' file tars=() parts sums number=0
    local path=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    shift
    for image; do
        read -r name layers config <<<"$image"
        number=$((number + 1))
        file=image-$number.json
        IFS=, read -r -a parts <<<"$layers"
        mapfile -t sums < <(for layer in "${parts[@]}"; do cat -- "$folder/$layer.sum"; done)
        jq -n --argjson config "{$config}" --arg path "$path" --arg architecture "$(dpkg --print-architecture)" \
            '{created: "1970-01-01T00:00:00Z", architecture: $architecture, os: "linux",
              config: ($config | .Env += [$path]),
              rootfs: {type: "layers", diff_ids: ($ARGS.positional | map("sha256:" + .))}}' \
            --args "${sums[@]}" >"$folder/$file"
        all+=$(jq -cn --arg file "$file" --arg name "$name" \
            '{Config: $file, RepoTags: [$name], Layers: ($ARGS.positional | map(. + ".tar"))}' --args "${parts[@]}")
        tars+=("$file")
    done
    jq -s . <<<"$all" >"$folder/manifest.json"
    for file in "$folder"/*.sum; do
        file=${file##*/}
        tars+=("${file%.sum}.tar")
    done
    tar -C "$folder" -cf "$folder/images.tar" manifest.json "${tars[@]}"
}
