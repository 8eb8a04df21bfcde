# Installs libpoco, builds examples/rig/trigger.c by the command in its first lines, feeds it frames; and what other
# programs find of the library.
set -eu
build=$1 source=$2 model=$3 cmake=$4 cc=$5
command -v pkg-config > /dev/null || { echo "needs pkg-config"; exit 77; }
place=$(mktemp -d) # the compiler's command of the docs is for places without spaces, which the build's may have
trap 'rm -rf "$place"' EXIT
"$cmake" --install "$build" --prefix "$place/made" > /dev/null
mv "$place/made" "$place/moved" # nothing says where it was built for
PKG_CONFIG_PATH=$(dirname "$(find "$place" -name poco.pc)")
export PKG_CONFIG_PATH
cd "$place"
cp "$source/examples/rig/trigger.c" "$source/examples/rig/text_frames.h" .
"$cc" ${CFLAGS:-} -Wall -Wextra -Werror trigger.c $(pkg-config --cflags --libs poco) \
    -Wl,-rpath,$(pkg-config --variable=libdir poco) -o trigger
i=0
while [ $i -lt 30 ]; do
    echo "t=$((i / 2)).$((i % 2 * 5)) $((i % 3)) 1 $((i % 5)) 0.5 -1 nan $((i % 7))"
    i=$((i + 1))
done > frames.txt
echo "no frame" >> frames.txt
echo "t=soon 1 2 3 4 5 6 7" >> frames.txt
echo "1 2 3" >> frames.txt
printf '1 2 3 4 5 6 7%0400d\n' 0 >> frames.txt # longer than any frame: no part of it is one
printf '1 2\0003 4 5 6 7\nt=15.0 1 2 3 4 5 6 7\n' >> frames.txt     # a zero byte spoils its own line alone
./trigger "$model" fish -1000 0 2 < frames.txt > found.txt 2> said.txt
cat found.txt said.txt
[ "$(grep -c TRIGGER found.txt)" = 1 ] # always above: one crossing, at the first forecast
[ "$(grep -c "a line that is no frame was left out" said.txt)" = 4 ]
grep -q "the frame has 3 units and session 'fish' has 7" said.txt
grep -q "^31 frames, .* forecasts, median" said.txt
./trigger "$model" fish 1000 0 2 < frames.txt 2> /dev/null | { ! grep TRIGGER; }
if echo "1 2 3 4 5 6 7 8" | ./trigger "$model" fish 0 0 2> said.txt; then exit 1; fi
grep -q "the frame has 8 units and session 'fish' has 7" said.txt

# One time that is far ahead: five frames are refused, and the rest is taken.
{ sed 10q frames.txt; sed "11!d; s/^t=[0-9.]*/t=1e18/" frames.txt; sed -n 12,30p frames.txt; } > ahead.txt
./trigger "$model" fish 0 0 < ahead.txt > /dev/null 2> said.txt
[ "$(grep -c "time stamps must rise" said.txt)" = 5 ]
grep -q "the last 5 frames were refused: the stream begins anew" said.txt
grep -q "^25 frames" said.txt

refuses() { # what is said of the arguments that follow
    says=$1
    shift
    if ./trigger "$model" "$@" < frames.txt > /dev/null 2> said.txt; then exit 1; fi
    grep -q "$says" said.txt
}
refuses "there is no session 'mouse'; the model knows 'fish'" mouse 0 0
for threshold in high 1x nan ""; do refuses usage fish "$threshold" 0; done
for unit in 7 -1 one 1.5 2x ""; do refuses "there is no unit '$unit': they are 0 to 6" fish 0 "$unit"; done

# A project in C alone, with either library.
mkdir project
cat > project/CMakeLists.txt << 'end'
cmake_minimum_required(VERSION 3.18)
project(rig LANGUAGES C)
find_package(poco REQUIRED)
foreach(library poco poco_static)
  add_executable(with_${library} ../trigger.c)
  target_link_libraries(with_${library} PRIVATE poco::${library})
endforeach()
end
"$cmake" -S project -B project/build -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="${CFLAGS:-}" \
    -DCMAKE_PREFIX_PATH="$place/moved" > project.txt || { cat project.txt; exit 1; }
"$cmake" --build project/build > project.txt || { cat project.txt; exit 1; }
for library in poco poco_static; do
    "project/build/with_$library" "$model" fish -1000 0 < frames.txt 2> /dev/null | grep -q TRIGGER
done

[ "$(uname)" = Linux ] || exit 0
# Nothing but the C interface is exported, and the library may be let go of while its threads wait.
shared=$(pkg-config --variable=libdir poco)/libpoco.so
nm -D --defined-only "$shared" > exported.txt
grep -q " poco_stream_push$" exported.txt
if grep -v " poco_[a-z_]*$" exported.txt; then exit 1; fi
"$cc" ${CFLAGS:-} -Wall -Wextra -Werror $(pkg-config --cflags poco) "$source/csrc/tests/unload_test.c" -ldl -o unload
ASAN_OPTIONS=detect_leaks=0 ./unload "$shared" "$model" # GCC's search for leaks crashes here, where threads came by dlopen
