# Installs libpoco, builds examples/rig/trigger.c by the command in its first lines, feeds it frames.
set -eu
build=$1 source=$2 model=$3 cmake=$4 cc=$5
command -v pkg-config > /dev/null || { echo "needs pkg-config"; exit 77; }
place=$build/rig
rm -rf "$place"
"$cmake" --install "$build" --prefix "$place" > /dev/null
PKG_CONFIG_PATH=$(dirname "$(find "$place" -name poco.pc)")
export PKG_CONFIG_PATH
cd "$place"
cp "$source/examples/rig/trigger.c" "$source/examples/rig/text_frames.h" .
sed -i.bak "s|^prefix=.*|prefix=$place|" "$PKG_CONFIG_PATH/poco.pc"
"$cc" ${CFLAGS:-} -Wall -Wextra -Werror trigger.c $(pkg-config --cflags --libs poco) -o trigger
LD_LIBRARY_PATH=$(pkg-config --variable=libdir poco)
export LD_LIBRARY_PATH
i=0
while [ $i -lt 30 ]; do
    echo "t=$i.0 $((i % 3)) 1 $((i % 5)) 0.5 -1 nan $((i % 7))"
    i=$((i + 1))
done > frames.txt
echo "no frame" >> frames.txt
echo "1 2 3" >> frames.txt
./trigger "$model" fish -1000 0 2 < frames.txt > found.txt 2> said.txt
cat found.txt said.txt
[ "$(grep -c TRIGGER found.txt)" = 1 ] # always above: one crossing, at the first forecast
grep -q "a line that is no frame was left out" said.txt
grep -q "the frame has 3 units and session 'fish' has 7" said.txt
grep -q "forecasts, median" said.txt
./trigger "$model" fish 1000 0 2 < frames.txt 2> /dev/null | { ! grep TRIGGER; }
if ./trigger "$model" mouse 0 0 < frames.txt > /dev/null 2> said.txt; then exit 1; fi
grep -q "session 'mouse'" said.txt
