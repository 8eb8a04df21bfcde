// Damaged model files, the same for the same number.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "model_files.h"

namespace {

// Changes a few bytes of a text, one to four times.
inline void damage(std::string& text, std::mt19937_64& random) {
    for (uint64_t changes = 1 + random() % 4; changes > 0 && !text.empty(); --changes) {
        const size_t at = random() % text.size();
        switch (random() % 6) {
            case 0:
                text[at] = static_cast<char>(random());
                break;
            case 1:
                text.erase(at, 1 + random() % 8);
                break;
            case 2:
                text.insert(at, 1 + random() % 8, static_cast<char>(random()));
                break;
            case 3:
                text[at] = static_cast<char>('0' + random() % 10);
                break;
            case 4: {  // the nearest number becomes another
                const size_t digit = text.find_first_of("0123456789", at);
                if (digit != std::string::npos) text[digit] = static_cast<char>('0' + random() % 10);
                break;
            }
            default:
                text.resize(at + 1);
        }
    }
}

// A model's files with its description, the header of its tensors, or anything else damaged. Of every other header
// that is damaged the length is set right: what is in it is then read.
inline ModelFiles damaged(const ModelFiles& whole, uint64_t number) {
    std::mt19937_64 random(number);
    ModelFiles files = whole;
    std::string& tensors = files.tensors;
    size_t length = 0;
    for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(tensors[i]);
    switch (random() % 4) {
        case 0:
            damage(files.config, random);
            break;
        case 1:
            damage(tensors, random);
            break;
        default: {
            std::string header = tensors.substr(8, length);
            damage(header, random);
            const size_t said = random() % 2 == 0 ? header.size() : length;
            tensors = little_endian(said) + header + tensors.substr(8 + length);
        }
    }
    return files;
}

}  // namespace
