#!/usr/bin/env bash
# A JobSet on Kubernetes, such as GKE: a Job for each slice, a pod for each of its hosts.
#
#   gke.sh image  --image=REGISTRY/NAME:TAG [--platform=tpu]      this commit, as an image
#   gke.sh apply  --name= --image= --hosts= [--slices=1] [--accelerator=tpu-v5p-slice]
#                 [--topology=2x2x2] [--chips=4] [--restarts=] -- --config=FILE --workdir=SHARED_DIRECTORY
#   gke.sh follow --name= [--metrics=WORKDIR]
#   gke.sh delete --name=                        the pods save, and end
#
# Each takes --dry_run, and --yes where it asks first. Where the workdir comes from (a volume, a
# bucket by gcsfuse) is the cluster's business: add it to jobset.yaml.
. "$(dirname "$0")/steps.sh"

names="name image hosts slices accelerator topology chips restarts platform metrics"
# shellcheck disable=SC2034 # the template is filled in by name
name='' image='' hosts='' slices=1 accelerator=tpu-v5p-slice topology=2x2x2 chips=4 restarts=100
platform=tpu metrics=''

# jobset: the template with everything filled in.
jobset() {
  local train text key
  train=$(quoted python -m lm_research train "${flags[@]}")
  text=$(< "$here/jobset.yaml")
  train=${train//\'/\'\'} # as a string of YAML
  for key in name image hosts slices accelerator topology chips restarts train; do
    text=${text//"{$key}"/"${!key}"}
  done
  printf '%s\n' "${text//"{processes}"/$((hosts * slices))}"
}

verb=${1:-}
case $verb in
  image) needed="image" ;;
  apply) needed="name image hosts" ;;
  follow | delete) needed="name" ;;
  *) die 2 "'$verb' is none of image, apply, follow, delete" ;;
esac
settings "$names" "$needed" "${@:2}"
case $verb in
  image)
    need docker
    committed > /dev/null
    build=$(quoted docker build --tag="$image" --build-arg=platform="$platform" --file=tpu/Dockerfile -)
    run bash -o pipefail -c "git -C $(quoted "$root") archive HEAD | $build"
    run docker push "$image"
    ;;
  apply)
    need kubectl
    trains
    if [ "$slices" -gt 1 ] && [[ " ${flags[*]}" != *" --config.mesh.slices="* ]]; then
      flags+=("--config.mesh.slices=$slices")
    fi
    ask "takes $((hosts * slices)) hosts of the cluster, which may cost money"
    file=$name.yaml
    jobset | write "$file"
    run kubectl apply --filename="$file"
    ;;
  follow)
    need kubectl
    if [ -n "$metrics" ]; then
      stream kubectl exec "jobs/$name-hosts-0" -- tail -n 20 -F "$metrics/metrics.jsonl"
    else
      stream kubectl logs --follow --prefix --selector="jobset.sigs.k8s.io/jobset-name=$name"
    fi
    ;;
  delete)
    need kubectl
    ask "ends the JobSet $name"
    run kubectl delete jobset "$name"
    ;;
esac
