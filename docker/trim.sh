#!/bin/sh
# Drop from SITE, a site-packages folder, what is never run, and compile the rest: in a container whose root is
# read-only nothing can be compiled later. Of the many model families only the chosen one's few files are ever
# imported: those stay sources, as do torch's tests (some are of later Pythons).
#   trim.sh SITE
set -eu
site=$1
cd "$site"
# torch's own test programs and the headers to build extensions with; torch_shm_manager is looked for at import
rm -rf torch/test torch/include
[ ! -d torch/bin ] || find torch/bin -type f ! -name torch_shm_manager -delete
# of plotly the page takes one file (service/http/routes/page.py)
[ ! -d plotly ] || find plotly -type f ! -path plotly/__init__.py ! -name plotly.min.js -delete
rm -rf pyarrow/include pyarrow/tests pandas/tests
for package in sympy networkx; do
  [ ! -d "$package" ] || find "$package" -type d -name tests -prune -exec rm -rf {} +
done
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'transformers/models/(?!auto/)|torch/testing/_internal/' .
