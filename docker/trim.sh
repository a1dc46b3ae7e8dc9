#!/bin/sh
# Remove from SITE, a site-packages folder, files that never run, and compile the rest: in a container with a read-only
# root Python cannot compile them later. The model families of transformers stay sources, because a process imports the
# few files of one family; so does torch.testing, parts of which need a later Python.
#   trim.sh SITE
set -eu
site=$1
cd "$site"
# torch's test programs, and headers to build extensions; importing torch needs torch_shm_manager
rm -rf torch/test torch/include
[ ! -d torch/bin ] || find torch/bin -type f ! -name torch_shm_manager -delete
# the page serves one file of plotly (service/http/routes/page.py)
[ ! -d plotly ] || find plotly -type f ! -path plotly/__init__.py ! -name plotly.min.js -delete
rm -rf pyarrow/include pyarrow/tests pandas/tests
for package in sympy networkx; do
  [ ! -d "$package" ] || find "$package" -type d -name tests -prune -exec rm -rf {} +
done
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'transformers/models/(?!auto/)|torch/testing/_internal/' .
